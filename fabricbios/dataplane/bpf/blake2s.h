/* SPDX-License-Identifier: Apache-2.0 */
/* BLAKE2s compression of one block (RFC 7693, 3.2), unrolled: BPF has no rotate and few registers. */
#ifndef FABRICBIOS_BLAKE2S_H
#define FABRICBIOS_BLAKE2S_H

#include "hash.h"

#define BLAKE_ROR(x, n) ((x) >> (n) | (x) << (32 - (n)))

/* The barrier keeps LLVM from holding sixteen message words at once, which would overflow the stack. */
#define BLAKE_MIX(a, b, c, d, x, y)                 \
	{                                           \
		a += b + (x);                       \
		d = BLAKE_ROR(d ^ a, 16);           \
		c += d;                             \
		b = BLAKE_ROR(b ^ c, 12);           \
		a += b + (y);                       \
		d = BLAKE_ROR(d ^ a, 8);            \
		c += d;                             \
		b = BLAKE_ROR(b ^ c, 7);            \
		asm volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d) : : "memory"); \
	}

#define BLAKE_ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, sa, sb, sc, sd, se, sf) \
	BLAKE_MIX(v0, v4, v8, v12, m[s0], m[s1])                                    \
	BLAKE_MIX(v1, v5, v9, v13, m[s2], m[s3])                                    \
	BLAKE_MIX(v2, v6, v10, v14, m[s4], m[s5])                                   \
	BLAKE_MIX(v3, v7, v11, v15, m[s6], m[s7])                                   \
	BLAKE_MIX(v0, v5, v10, v15, m[s8], m[s9])                                   \
	BLAKE_MIX(v1, v6, v11, v12, m[sa], m[sb])                                   \
	BLAKE_MIX(v2, v7, v8, v13, m[sc], m[sd])                                    \
	BLAKE_MIX(v3, v4, v9, v14, m[se], m[sf])

/*
 * Compress `block`, whose words are as they lie in memory, into `s`. `counted` is how many bytes were hashed so far,
 * this block and the key block included; `last` is all ones in the last block.
 */
__noinline int blake2s_block(struct hash_state *s, const struct hash_block *block, __u32 counted, __u32 last)
{
	if (!s || !block)
		return -1;
	__u32 *state = s->word;
	struct hash_block own = *block;
	__u32 *m = own.word;
	asm volatile("" ::"r"(m) : "memory");
	__u32 v0 = state[0], v1 = state[1], v2 = state[2], v3 = state[3];
	__u32 v4 = state[4], v5 = state[5], v6 = state[6], v7 = state[7];
	__u32 v8 = 0x6a09e667, v9 = 0xbb67ae85, v10 = 0x3c6ef372, v11 = 0xa54ff53a;
	__u32 v12 = 0x510e527f ^ counted, v13 = 0x9b05688c, v14 = 0x1f83d9ab ^ last, v15 = 0x5be0cd19;

	BLAKE_ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
	BLAKE_ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3)
	BLAKE_ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4)
	BLAKE_ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8)
	BLAKE_ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13)
	BLAKE_ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9)
	BLAKE_ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11)
	BLAKE_ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10)
	BLAKE_ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5)
	BLAKE_ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0)

	state[0] ^= v0 ^ v8;
	state[1] ^= v1 ^ v9;
	state[2] ^= v2 ^ v10;
	state[3] ^= v3 ^ v11;
	state[4] ^= v4 ^ v12;
	state[5] ^= v5 ^ v13;
	state[6] ^= v6 ^ v14;
	state[7] ^= v7 ^ v15;
	return 0;
}

#endif
