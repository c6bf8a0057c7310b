// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/task: the same as sched_process_exec for what ran before the load.
 * Reading the pinned link runs it; it prints nothing. It sees the tasks of the
 * reader's pid namespace.
 */
#include "pods.h"

SEC("iter/task")
int iter_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task && !(task->flags & PF_KTHREAD))
		task_remember(task);
	return 0;
}
