/* SPDX-License-Identifier: Apache-2.0 */
/* From a frame to the datagram in it and back: Ethernet, at most one VLAN tag, IPv4 or IPv6, UDP. */
#ifndef FABRICBIOS_PACKET_H
#define FABRICBIOS_PACKET_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include "maps.h"
#include "protocol.h"

#define UDP_HEADER ((int)sizeof(struct udphdr))
#define IPV4_HEADER ((int)sizeof(struct iphdr))
#define IPV6_HEADER ((int)sizeof(struct ipv6hdr))
#define IP_OFFSET_OR_MORE 0x3fff /* fragment offset and "more fragments" */
#define IP_DONT_FRAGMENT 0x4000

struct vlan_tag {
	__be16 tci;
	__be16 proto;
};

/* Where things lie, as offsets in the frame. */
struct place {
	__u32 ip;
	__u32 at; /* the dp_header */
	__u32 payload; /* UDP payload bytes */
	__u32 v6;
	__u32 port; /* network order */
};

enum parsed { PARSED_OTHER, PARSED_OURS, PARSED_MALFORMED, PARSED_FRAGMENT };

static __always_inline int is_ours(__u32 port)
{
	return port && (port == config.fbmu_port || port == config.fbbu_port);
}

/* The UDP header, which must fill what IP says it carries. */
static __always_inline int parse_udp(struct udphdr *udp, void *end, __u32 carried, struct place *p)
{
	if ((void *)(udp + 1) > end)
		return PARSED_OTHER;
	p->port = udp->dest;
	if (!is_ours(p->port))
		return PARSED_OTHER;
	p->payload = carried - UDP_HEADER;
	if (bpf_ntohs(udp->len) != carried || carried < UDP_HEADER || (void *)udp + carried > end)
		return PARSED_MALFORMED;
	return PARSED_OURS;
}

/* Options are left to the stack and the socket: nobody who wants speed sends them. */
static __always_inline int parse_v4(void *data, void *end, struct place *p)
{
	struct iphdr *ip = data + p->ip;
	__u32 total, frag, found;

	if ((void *)(ip + 1) > end || ip->ihl != 5 || ip->version != 4 || ip->protocol != IPPROTO_UDP)
		return PARSED_OTHER;
	frag = ip->frag_off & bpf_htons(IP_OFFSET_OR_MORE);
	total = bpf_ntohs(ip->tot_len);
	p->at = p->ip + IPV4_HEADER + UDP_HEADER;
	if (frag & bpf_htons(0x1fff))
		return PARSED_OTHER; /* no ports in it; without its first fragment it comes to nothing */
	found = parse_udp((void *)(ip + 1), end, (total - IPV4_HEADER) & 0xffff, p);
	return frag && found != PARSED_OTHER ? PARSED_FRAGMENT : found;
}

/* Extension headers (fragments among them) are left to the stack. */
static __always_inline int parse_v6(void *data, void *end, struct place *p)
{
	struct ipv6hdr *ip = data + p->ip;

	if ((void *)(ip + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_UDP)
		return PARSED_OTHER;
	p->v6 = 1;
	p->at = p->ip + IPV6_HEADER + UDP_HEADER;
	return parse_udp((void *)(ip + 1), end, bpf_ntohs(ip->payload_len), p);
}

static __always_inline int parse(void *data, void *end, struct place *p)
{
	struct ethhdr *eth = data;
	__be16 proto;

	p->ip = sizeof(*eth);
	p->v6 = 0;
	if ((void *)(eth + 1) > end)
		return PARSED_OTHER;
	proto = eth->h_proto;
	if (proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD)) {
		struct vlan_tag *vlan = (void *)(eth + 1);

		if ((void *)(vlan + 1) > end)
			return PARSED_OTHER;
		proto = vlan->proto;
		p->ip += sizeof(*vlan);
	}
	if (proto == bpf_htons(ETH_P_IP))
		return parse_v4(data, end, p);
	if (proto == bpf_htons(ETH_P_IPV6))
		return parse_v6(data, end, p);
	return PARSED_OTHER;
}

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Both halves, so that 2^32 words can be added before a carry is lost; no branch, which the verifier would follow. */
static __always_inline __u64 halves(__u64 word)
{
	return (word & 0xffffffff) + (word >> 32);
}

/*
 * The Internet checksum (RFC 1071) over `length` (8..1480) bytes from `from`, before its complement, added to `sum`.
 * Wider words do as well: a carry that is added back is the same in every width.
 */
__noinline int checksum(struct xdp_md *ctx, __u32 from, __u32 length, __u64 sum)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 at = from & OFFSET_MASK, whole = length, rest = length & 7, last;
	__u64 *word = data + at;

	for (__u32 done = 8; done <= MAX_DATAGRAM_V4 + UDP_HEADER; done += 8) {
		if (done > whole || (void *)(word + 1) > end)
			break;
		sum += halves(*word);
		word++;
	}
	if (rest) {
		if (load_rest(data, end, at + whole, rest, &last))
			return -1;
		sum += halves(last);
	}
	return fold(sum);
}

static __always_inline void swap_stations(struct ethhdr *eth)
{
	__u16 *mac = (void *)eth;

	for (int i = 0; i < 3; i++) {
		__u16 there = mac[i];

		mac[i] = mac[i + 3];
		mac[i + 3] = there;
	}
}

/* The header made anew, in whole words: its sum reads no byte that was only just written. */
static __always_inline int answer_v4(struct iphdr *ip, void *end, __u32 carried)
{
	__u32 *word = (void *)ip, to, from;

	if ((void *)(ip + 1) > end)
		return -1;
	from = ip->daddr;
	to = ip->saddr;
	word[0] = bpf_htonl(0x45000000 | (IPV4_HEADER + carried)); /* version, words, TOS 0, length */
	word[1] = bpf_htonl(IP_DONT_FRAGMENT); /* id 0 */
	word[2] = bpf_htonl(64 << 24 | IPPROTO_UDP << 16); /* TTL, protocol; no checksum yet */
	word[3] = from;
	word[4] = to;
	ip->check = ~fold((__u64)word[0] + word[1] + word[2] + from + to);
	return 0;
}

static __always_inline int answer_v6(struct ipv6hdr *ip, void *end, __u32 carried)
{
	struct in6_addr there;

	if ((void *)(ip + 1) > end)
		return -1;
	there = ip->saddr;
	ip->saddr = ip->daddr;
	ip->daddr = there;
	ip->payload_len = bpf_htons(carried);
	ip->hop_limit = 64;
	return 0;
}

static __always_inline int answer_udp(struct udphdr *udp, void *end, __u32 carried)
{
	__u16 there;

	if ((void *)(udp + 1) > end)
		return -1;
	there = udp->source;
	udp->source = udp->dest;
	udp->dest = there;
	udp->len = bpf_htons(carried);
	udp->check = 0;
	return 0;
}

/* Forgotten before it is added: LLVM would add and subtract on the pointer, which gives the verifier no range. */
static __always_inline __u64 udp_offset(const struct place *p)
{
	__u64 at = p->at - UDP_HEADER;

	FORGET(at);
	return at & OFFSET_MASK;
}

/* Turn the frame round, for an answer of `payload` bytes after the dp_header. The UDP checksum comes last of all. */
static __always_inline int answer_frame(void *data, void *end, const struct place *p, __u32 payload)
{
	__u64 ip = p->ip & OFFSET_MASK;
	__u32 carried = UDP_HEADER + HEADER + payload;

	if (data + sizeof(struct ethhdr) > end)
		return -1;
	swap_stations(data);
	if (answer_udp(data + udp_offset(p), end, carried))
		return -1;
	return p->v6 ? answer_v6(data + ip, end, carried) : answer_v4(data + ip, end, carried);
}

/* Sum of the IPv6 pseudo-header (RFC 8200, 8.1). */
static __always_inline __u64 pseudo_v6(const struct ipv6hdr *ip, __u32 carried)
{
	const __u64 *address = (const void *)&ip->saddr;
	__u64 sum = bpf_htonl(carried);

	sum += (__u64)IPPROTO_UDP << 8; /* a 16-bit word in network order */
	for (int i = 0; i < 4; i++)
		sum += halves(address[i]);
	return sum;
}

/* The same of IPv4's (RFC 768). */
static __always_inline __u64 pseudo_v4(const struct iphdr *ip, __u32 carried)
{
	return (__u64)ip->saddr + ip->daddr + bpf_htons(carried) + bpf_htons(IPPROTO_UDP);
}

/*
 * 0 unless the datagram's checksum says that it was damaged: it is right, absent, or the pseudo-header's alone, which a
 * sender on this machine leaves for a network card to finish.
 */
__noinline int verify_checksum(struct xdp_md *ctx, const struct place *p)
{
	if (!p)
		return -1;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 at = udp_offset(p), pseudo;
	void *ip = data + (p->ip & OFFSET_MASK);
	struct udphdr *udp = data + at;
	__u32 carried = UDP_HEADER + p->payload;

	if (ip + IPV6_HEADER > end || (void *)(udp + 1) > end)
		return -1;
	pseudo = p->v6 ? pseudo_v6(ip, carried) : pseudo_v4(ip, carried);
	if (!udp->check || udp->check == fold(pseudo))
		return 0;
	return checksum(ctx, at, carried, pseudo) == 0xffff ? 0 : -1;
}

/* Give an answer its UDP checksum. */
__noinline int answer_checksum(struct xdp_md *ctx, const struct place *p, __u32 payload)
{
	if (!p)
		return -1;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 at = udp_offset(p);
	void *ip = data + (p->ip & OFFSET_MASK);
	struct udphdr *udp = data + at;
	__u32 carried = UDP_HEADER + HEADER + payload;
	int sum;

	if (ip + IPV6_HEADER > end) /* IPv4's with its UDP and our header is longer, too */
		return -1;
	sum = checksum(ctx, at, carried, p->v6 ? pseudo_v6(ip, carried) : pseudo_v4(ip, carried));
	if (sum < 0 || (void *)(udp + 1) > end)
		return -1;
	udp->check = sum == 0xffff ? 0xffff : ~sum;
	return 0;
}

#endif
