// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/task: the same as sched_process_exec for what ran before the load.
 * Reading the pinned link runs it; it prints nothing.
 *
 * The kernel iterates over the reader's pid namespace, which for an init
 * container is itself alone. So the first task that it shows is only where the
 * walk begins: pid 0 heads the list of all the machine's processes.
 */
#include "pods.h"

/* Two loops, for the verifier follows each turn of a loop: 65,536 processes. */
#define ROWS 256
#define ROW 256

/* Global, for it is followed once then, and not in each turn of the loop. */
WALK int process_remember(__u64 pos)
{
	struct task_struct *task = (void *)pos - offsetof(struct task_struct, tasks);

	if (!(BPF_CORE_READ(task, flags) & PF_KTHREAD))
		task_remember(task);
	return 0;
}

WALK __u64 row_remember(__u64 pos, __u64 head)
{
	for (int i = 0; i < ROW && pos; i++) {
		process_remember(pos);
		pos = list_next(pos, head);
	}
	return pos;
}

SEC("iter/task")
int iter_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	__u64 first, head, pos;

	if (!task || ctx->meta->seq_num)
		return 0;
	/* From its parent: the verifier does not take ctx->task for a number. */
	first = first_task((__u64)BPF_CORE_READ(task, real_parent));
	if (!first)
		return 0;
	head = first + offsetof(struct task_struct, tasks);
	pos = list_next(head, head);
	for (int i = 0; i < ROWS && pos; i++) pos = row_remember(pos, head);
	return 0;
}
