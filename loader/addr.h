/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses, as onramp.h has them: 16 bytes, network byte order. */
#ifndef ONRAMP_LOADER_ADDR_H
#define ONRAMP_LOADER_ADDR_H

#include "onramp.h"
#include <stdbool.h>

static const union addr v4_mapped = { .byte = { [10] = 0xff, [11] = 0xff } };

/* False: the text is no IP address. */
bool addr_parse(const char *text, union addr *ip);

bool addr_is_v4(const union addr *ip);

/* Whether the caller's netns holds it: 1, 0, or a negative errno if that cannot be told. */
int addr_is_here(const union addr *ip);

#endif
