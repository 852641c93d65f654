/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replay window of a lease (D10; the words are described in fabricbios/dataplane/slots.py).
 *
 * The words alone never let a nonce in twice; `highest` is there for the exact bound of 1024. Several CPUs may take
 * nonces of one lease at once, so a word changes by compare-and-swap. Three tries in a straight line: a loop without
 * an end is nothing for the verifier, and who loses three times to other questions of the lease is dropped like a
 * replay, which costs its sender one retry.
 */
#ifndef FABRICBIOS_WINDOW_H
#define FABRICBIOS_WINDOW_H

#include "protocol.h"

#define WINDOW_TRIES 3

/* FRESH, or the reason for the drop. */
enum nonce_verdict { NONCE_FRESH = -1, NONCE_REPLAYED = DROP_REPLAYED, NONCE_TOO_OLD = DROP_TOO_OLD };

static __always_inline __u64 *window_word(struct lease_slot *slot, __u64 nonce)
{
	return &slot->window[(nonce >> 3) & (WINDOW_WORDS - 1)];
}

static __always_inline int window_judge(struct lease_slot *slot, __u64 nonce, __u64 word)
{
	__u64 highest = *(volatile __u64 *)&slot->highest, generation = nonce >> 10;

	if (generation < word >> 8 || (highest >= WINDOW && nonce <= highest - WINDOW))
		return NONCE_TOO_OLD;
	return generation == word >> 8 && word >> (nonce & 7) & 1 ? NONCE_REPLAYED : NONCE_FRESH;
}

/* Whether the nonce would be taken; takes nothing. */
static __always_inline int window_peek(struct lease_slot *slot, __u64 nonce)
{
	return window_judge(slot, nonce, *(volatile __u64 *)window_word(slot, nonce));
}

/*
 * `highest` moves when the nonce's word does: one time in eight, which saves a locked operation the other seven. No
 * verdict depends on the rest: what the exact number alone would call too old shares its word with that number.
 */
static __always_inline void window_raise(struct lease_slot *slot, __u64 nonce)
{
#pragma clang loop unroll(full)
	for (int i = 0; i < WINDOW_TRIES; i++) {
		__u64 highest = *(volatile __u64 *)&slot->highest;

		if (nonce >> 3 <= highest >> 3 || __sync_val_compare_and_swap(&slot->highest, highest, nonce) == highest)
			return;
	}
}

/* Take the nonce, so that no CPU takes it again. */
__noinline int window_take(struct lease_slot *slot, __u64 nonce)
{
	if (!slot)
		return NONCE_REPLAYED;
	__u64 *at = window_word(slot, nonce), generation = nonce >> 10, bit = 1ull << (nonce & 7);

#pragma clang loop unroll(full)
	for (int i = 0; i < WINDOW_TRIES; i++) {
		__u64 word = *(volatile __u64 *)at, next;
		int verdict = window_judge(slot, nonce, word);

		if (verdict != NONCE_FRESH)
			return verdict;
		next = (generation == word >> 8 ? word : generation << 8) | bit;
		if (__sync_val_compare_and_swap(at, word, next) == word) {
			window_raise(slot, nonce);
			return NONCE_FRESH;
		}
	}
	return NONCE_REPLAYED;
}

#endif
