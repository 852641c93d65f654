/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-2-4 with 128-bit output (Aumasson and Bernstein; reference code's outlen 16), on 64-bit words. */
#ifndef FABRICBIOS_SIPHASH_H
#define FABRICBIOS_SIPHASH_H

#include <linux/types.h>

struct sip_state {
	__u64 v0, v1, v2, v3;
};

/* Rotate x left by n: BPF has no such instruction. */
#define SIP_ROL(x, n) "%[t] = %[" x "]; %[" x "] <<= " #n "; %[t] >>= 64 - " #n "; %[" x "] |= %[t];"
#define SIP_ADD(x, y) "%[" x "] += %[" y "];"
#define SIP_XOR(x, y) "%[" x "] ^= %[" y "];"

/* One SipRound: 32 instructions and one register more than the state has. LLVM takes a third more, for copies. */
static __always_inline void sip_round(struct sip_state *s)
{
	__u64 t;

	asm(SIP_ADD("v0", "v1") SIP_ROL("v1", 13) SIP_XOR("v1", "v0") SIP_ROL("v0", 32)
	    SIP_ADD("v2", "v3") SIP_ROL("v3", 16) SIP_XOR("v3", "v2")
	    SIP_ADD("v0", "v3") SIP_ROL("v3", 21) SIP_XOR("v3", "v0")
	    SIP_ADD("v2", "v1") SIP_ROL("v1", 17) SIP_XOR("v1", "v2") SIP_ROL("v2", 32)
	    : [v0] "+r"(s->v0), [v1] "+r"(s->v1), [v2] "+r"(s->v2), [v3] "+r"(s->v3), [t] "=&r"(t));
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
