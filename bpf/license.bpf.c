// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The licence of the whole object, for the kernel's GPL-only helpers. */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
