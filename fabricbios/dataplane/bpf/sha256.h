/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 compression of one block (FIPS 180-4, 6.2.2), shaped for the BPF stack of 512 bytes. */
#ifndef FABRICBIOS_SHA256_H
#define FABRICBIOS_SHA256_H

#include "hash.h"

/*
 * BPF has no rotate. Three rotations of one word are cheapest as three shifts of the word written twice into 64 bits:
 * the low half of `twice >> n` is the word rotated right by n.
 */
#define TWICE(x) ((__u64)(__u32)(x) | (__u64)(__u32)(x) << 32)
#define SHA_SUM0(t) ((__u32)((t) >> 2) ^ (__u32)((t) >> 13) ^ (__u32)((t) >> 22))
#define SHA_SUM1(t) ((__u32)((t) >> 6) ^ (__u32)((t) >> 11) ^ (__u32)((t) >> 25))
#define SHA_LOW0(t, x) ((__u32)((t) >> 7) ^ (__u32)((t) >> 18) ^ ((x) >> 3))
#define SHA_LOW1(t, x) ((__u32)((t) >> 17) ^ (__u32)((t) >> 19) ^ ((x) >> 10))
#define SHA_CHOOSE(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define SHA_MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))

/* The barrier a round keeps LLVM from hoisting loads of the whole schedule, which would overflow the stack. */
#define SHA_ROUND(a, b, c, d, e, f, g, h, k, word)                                     \
	{                                                                              \
		__u64 te = TWICE(e), ta = TWICE(a);                                    \
		__u32 t1 = h + SHA_SUM1(te) + SHA_CHOOSE(e, f, g) + (k) + (word);      \
		d += t1;                                                               \
		h = t1 + SHA_SUM0(ta) + SHA_MAJORITY(a, b, c);                         \
		asm volatile("" ::: "memory");                                         \
	}

static __always_inline __u32 sha256_extend(__u32 *w, int i)
{
	__u32 near = w[(i - 2) & 15], far = w[(i - 15) & 15];
	__u64 tn = TWICE(near), tf = TWICE(far);

	w[i & 15] += SHA_LOW1(tn, near) + w[(i - 7) & 15] + SHA_LOW0(tf, far);
	return w[i & 15];
}

#define SHA_8(i, word, k0, k1, k2, k3, k4, k5, k6, k7)        \
	SHA_ROUND(a, b, c, d, e, f, g, h, k0, word(w, i + 0)) \
	SHA_ROUND(h, a, b, c, d, e, f, g, k1, word(w, i + 1)) \
	SHA_ROUND(g, h, a, b, c, d, e, f, k2, word(w, i + 2)) \
	SHA_ROUND(f, g, h, a, b, c, d, e, k3, word(w, i + 3)) \
	SHA_ROUND(e, f, g, h, a, b, c, d, k4, word(w, i + 4)) \
	SHA_ROUND(d, e, f, g, h, a, b, c, k5, word(w, i + 5)) \
	SHA_ROUND(c, d, e, f, g, h, a, b, k6, word(w, i + 6)) \
	SHA_ROUND(b, c, d, e, f, g, h, a, k7, word(w, i + 7))
#define SHA_GIVEN(w, i) ((w)[i])

/* Compress `w`, whose words are in host order and which it overwrites, into `s`. */
__noinline int sha256_block(struct hash_state *s, struct hash_block *block)
{
	if (!s || !block)
		return -1;
	__u32 *state = s->word, *w = block->word;
	__u32 a = state[0], b = state[1], c = state[2], d = state[3];
	__u32 e = state[4], f = state[5], g = state[6], h = state[7];

	SHA_8(0, SHA_GIVEN, 0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5)
	SHA_8(8, SHA_GIVEN, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174)
	SHA_8(16, sha256_extend, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da)
	SHA_8(24, sha256_extend, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967)
	SHA_8(32, sha256_extend, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85)
	SHA_8(40, sha256_extend, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070)
	SHA_8(48, sha256_extend, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3)
	SHA_8(56, sha256_extend, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2)

	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
	state[4] += e;
	state[5] += f;
	state[6] += g;
	state[7] += h;
	return 0;
}

#endif
