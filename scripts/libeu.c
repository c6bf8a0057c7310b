// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Four functions that libelf.a calls and does not bring along (elfutils 0.191
 * and 0.192; Debian 13): its search trees, which are the C library's with a
 * lock around them. The loader has one thread. static-libs adds this file
 * where libelf.a wants it.
 */
#include <search.h>
#include <stddef.h>

struct search_tree {
	void *root; /* a lock follows */
};

typedef int compare(const void *a, const void *b);

void eu_search_tree_init(struct search_tree *tree)
{
	tree->root = NULL;
}

void eu_search_tree_fini(struct search_tree *tree, void (*free_node)(void *))
{
	tdestroy(tree->root, free_node);
}

void *eu_tsearch(const void *key, struct search_tree *tree, compare *compare)
{
	return tsearch(key, &tree->root, compare);
}

void *eu_tdelete(const void *key, struct search_tree *tree, compare *compare)
{
	return tdelete(key, &tree->root, compare);
}
