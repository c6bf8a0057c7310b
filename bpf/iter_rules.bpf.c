// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * iter/bpf_map_elem: the rules file, a line per entry of mesh_rules, then of
 * bypass_rules, in address order.
 *
 * The kernel has no iterator over an LPM trie. So this one is attached to
 * rules_turns, whose elements each give it one more turn, and walks the tries
 * itself (kernel/bpf/lpm_trie.c). Between turns it keeps only the last
 * prefix, and finds the next from the root: nodes may come and go meanwhile.
 */
#include "maps.h"
#include "addr.h"

#define RULES_PER_TURN 8
#define TURNS 8192     /* times RULES_PER_TURN: as many as both maps hold */
#define INTERMEDIATE 1 /* lpm_trie_node.flags: a fork, not an entry */

struct place {
	__u32 map;   /* 0 mesh_rules, 1 bypass_rules, 2 at the end */
	__u32 begun; /* last is valid */
	struct prefix last;
	__u32 pad;
};

/* The kernel takes a turn back, and comes again, when its output does not fit. */
struct cursor {
	struct place at;
	struct place turn_began;
	__u64 turn;
};

/* Reader's session -> struct cursor. LRU: for readers that left half-way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct cursor);
} rules_readers SEC(".maps");

/* Turn -> nothing. Nobody reads or writes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TURNS);
	__type(key, __u32);
	__type(value, __u32);
} rules_turns SEC(".maps");

/* A prefix' bits as numbers, first bit highest. */
struct bits {
	__u64 high, low;
};

static __always_inline struct bits node_bits(__u64 node)
{
	union addr ip = {};

	bpf_core_read(&ip, sizeof(ip), &((struct lpm_trie_node *)node)->data);
	return (struct bits){ bpf_be64_to_cpu(ip.half[0]), bpf_be64_to_cpu(ip.half[1]) };
}

static __always_inline __u64 child(__u64 node, __u32 bit)
{
	__u64 next = 0;

	bpf_core_read(&next, sizeof(next), &((struct lpm_trie_node *)node)->child[0]);
	if (bit)
		bpf_core_read(&next, sizeof(next), &((struct lpm_trie_node *)node)->child[1]);
	return next;
}

static __always_inline __u32 bit_at(struct bits bits, __u32 i)
{
	return i < 64 ? bits.high >> (63 - i) & 1 : bits.low >> (127 - i) & 1;
}

/* Whether a and b agree in their first length bits. */
static __always_inline bool same_start(struct bits a, struct bits b, __u32 length)
{
	__u64 high = a.high ^ b.high, low = a.low ^ b.low;

	if (length < 64)
		return !length || !(high >> (64 - length));
	return !high && (length == 64 || !(low >> (128 - length)));
}

/* Where the prefix is, seen from a node. */
enum step { HERE, LEFT, RIGHT, PASSED, AHEAD };

/*
 * PASSED: the prefix would come after all below the node; AHEAD: before it.
 * Global, as trie_next(): the verifier then checks it once and by itself.
 */
__weak __noinline __u32 trie_step(__u64 node, __u32 length, __u64 high, __u64 low)
{
	__u32 node_length = BPF_CORE_READ((struct lpm_trie_node *)node, prefixlen);
	struct bits bits = node_bits(node), sought = { high, low };

	if (node_length > length || !same_start(bits, sought, node_length))
		return (bits.high != high ? bits.high > high : bits.low >= low) ? AHEAD : PASSED;
	if (node_length == length)
		return HERE;
	return bit_at(sought, node_length) ? RIGHT : LEFT;
}

/* The child of node on the way to the prefix; 0: the way ends here. */
__weak __noinline __u64 trie_down(__u64 node, __u32 length, __u64 high, __u64 low)
{
	__u32 step = trie_step(node, length, high, low);

	return step == LEFT ? child(node, 0) : step == RIGHT ? child(node, 1) : 0;
}

/* What is known to follow the prefix: as before node, or better. */
__weak __noinline __u64 trie_after(__u64 after, __u64 node, __u32 length, __u64 high, __u64 low)
{
	__u32 step = trie_step(node, length, high, low);
	__u64 left = child(node, 0), right = child(node, 1);

	if (step == AHEAD)
		return node; /* the prefix itself is gone */
	if (step == HERE && left)
		return left;
	return (step == HERE || step == LEFT) && right ? right : after;
}

/* The node that follows the prefix in the trie's order; 0: none does. */
__weak __noinline __u64 trie_next(__u64 root, __u32 length, __u64 high, __u64 low)
{
	__u64 node = root, after = 0;

	for (int i = 0; i <= 128 && node; i++) {
		after = trie_after(after, node, length, high, low);
		node = trie_down(node, length, high, low);
	}
	return after;
}

/*
 * Moves the session's cursor to the next node of either trie; 0: at the end.
 * Global, and with the cursor in a map, so that the verifier need not follow
 * what it holds from turn to turn.
 */
__weak __noinline __u64 advance(__u64 session, __u64 mesh_root, __u64 bypass_root)
{
	struct cursor *cursor = bpf_map_lookup_elem(&rules_readers, &session);
	struct lpm_trie_node *node;
	struct place *at;
	union addr ip = {};

	if (!cursor)
		return 0;
	at = &cursor->at;
	for (int i = 0; i < 2; i++, at->map++, at->begun = 0) {
		__u64 root = at->map ? bypass_root : mesh_root;

		if (at->map > 1)
			break;
		ip = at->last.ip;
		node = (void *)(!at->begun ? root :
					     trie_next(root, at->last.length,
						       bpf_be64_to_cpu(ip.half[0]),
						       bpf_be64_to_cpu(ip.half[1])));
		if (!node)
			continue;
		at->begun = 1;
		at->last.length = BPF_CORE_READ(node, prefixlen);
		bpf_core_read(&ip, sizeof(ip), &node->data);
		at->last.ip = ip;
		return (__u64)node;
	}
	return 0;
}

static __always_inline void print(struct seq_file *seq, struct lpm_trie_node *node)
{
	__u32 length = BPF_CORE_READ(node, prefixlen), rule = 0;
	union addr ip = {};

	bpf_core_read(&ip, sizeof(ip), &node->data);
	/* The value follows the key's bytes. */
	bpf_probe_read_kernel(&rule, sizeof(rule), (void *)&node->data + sizeof(ip));
	BPF_SEQ_PRINTF(seq, "%s",
		       rule == RULE_IN	   ? "in      " :
		       rule == RULE_OUT	   ? "out     " :
		       rule == RULE_BYPASS ? "bypass  " :
					     "?       ");
	if (addr_is_v4(&ip) && length >= 96)
		BPF_SEQ_PRINTF(seq, "%pI4/%u\n", &ip.word[3], length - 96);
	else
		BPF_SEQ_PRINTF(seq, "%pI6c/%u\n", &ip, length);
}

SEC("iter/bpf_map_elem")
int rules(struct bpf_iter__bpf_map_elem *ctx)
{
	__u64 session = ctx->meta->session_id;
	__u64 mesh_root = as_number(((struct lpm_trie *)&mesh_rules)->root);
	__u64 bypass_root = as_number(((struct lpm_trie *)&bypass_rules)->root);
	struct cursor start = {}, *cursor;
	__u32 *turn = ctx->key;

	if (!turn) { /* the last turn is over */
		bpf_map_delete_elem(&rules_readers, &session);
		return 0;
	}
	if (!*turn)
		bpf_map_update_elem(&rules_readers, &session, &start, BPF_ANY);
	cursor = bpf_map_lookup_elem(&rules_readers, &session);
	if (!cursor)
		return 0; /* 64 other readers came since */
	if (cursor->turn == *turn)
		cursor->at = cursor->turn_began;
	cursor->turn_began = cursor->at;
	cursor->turn = *turn;
	for (int i = 0; i < RULES_PER_TURN; i++) {
		struct lpm_trie_node *node = (void *)advance(session, mesh_root, bypass_root);

		if (!node)
			break;
		if (!(BPF_CORE_READ(node, flags) & INTERMEDIATE))
			print(ctx->meta->seq, node);
	}
	return 0;
}
