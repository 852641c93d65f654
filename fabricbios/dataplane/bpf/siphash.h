/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-2-4 with 128-bit output (Aumasson and Bernstein; reference code's outlen 16), on 64-bit words. */
#ifndef FABRICBIOS_SIPHASH_H
#define FABRICBIOS_SIPHASH_H

#include <linux/types.h>

struct sip_state {
	__u64 v0, v1, v2, v3;
};

#define SIP_ROL(x, n) ((x) << (n) | (x) >> (64 - (n)))

static __always_inline void sip_round(struct sip_state *s)
{
	s->v0 += s->v1;
	s->v1 = SIP_ROL(s->v1, 13) ^ s->v0;
	s->v0 = SIP_ROL(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = SIP_ROL(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = SIP_ROL(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = SIP_ROL(s->v1, 17) ^ s->v2;
	s->v2 = SIP_ROL(s->v2, 32);
}

static __always_inline void sip_start(struct sip_state *s, __u64 k0, __u64 k1)
{
	s->v0 = k0 ^ 0x736f6d6570736575ull;
	s->v1 = k1 ^ 0x646f72616e646f6dull ^ 0xee;
	s->v2 = k0 ^ 0x6c7967656e657261ull;
	s->v3 = k1 ^ 0x7465646279746573ull;
}

static __always_inline void sip_word(struct sip_state *s, __u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	sip_round(s);
	s->v0 ^= word;
}

static __always_inline __u64 sip_half(struct sip_state *s)
{
	sip_round(s);
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* The 16 tag bytes as two little-endian words, in memory order. */
static __always_inline void sip_finish(struct sip_state *s, __u64 *low, __u64 *high)
{
	s->v2 ^= 0xee;
	*low = sip_half(s);
	s->v1 ^= 0xdd;
	*high = sip_half(s);
}

#endif
