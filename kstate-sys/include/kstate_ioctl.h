/* kstate_ioctl.h - control interface of a kstate file system, ABI version 1.
 *
 * Calls on an open state file. Integers are in the machine's byte order; what is not used is
 * zero when sent and ignored when received. Errors are ordinary errno values; an unknown call
 * answers ENOTTY. The Rust side is kstate-sys/src/ioctl.rs; a test compares the two.
 */
#ifndef KSTATE_IOCTL_H
#define KSTATE_IOCTL_H

#include <stdint.h>
#include <sys/ioctl.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KSTATE_ABI_VERSION 1
#define KSTATE_IOC_TYPE 0xb5
#define KSTATE_LAYOUT_TEXT_BYTES 960
#define KSTATE_MAX_NAME_BYTES 247

/* Add to the flags of open(2) when the program will not map the file by itself: an open without
 * it arms the live page, which then costs every commit one more copy. (The value of O_ASYNC.) */
#define KSTATE_O_LIBRARY 020000

/* In the page behind the live value, for who maps the file. KSTATE_LIVE_TAG is the generation shown,
 * 64 bits; with KSTATE_LIVE_UNFINISHED set the value is no whole version. KSTATE_LIVE_LENGTH is the
 * length in bytes, 32 bits. What was copied between two equal tags without that bit is whole. */
#define KSTATE_LIVE_TAG 192
#define KSTATE_LIVE_LENGTH 200
#define KSTATE_LIVE_UNFINISHED 0x8000000000000000

/* What is wanted of the state, and how to map it. */
struct kstate_subscribe {
    uint32_t abi_version;          /* in: caller's; out: daemon's */
    uint32_t outcome;              /* out: KSTATE_OUTCOME_* */
    uint32_t capacity;             /* in: bytes wanted, 0: no opinion; out: in force */
    uint32_t transport;            /* out: KSTATE_TRANSPORT_* */
    uint32_t page_size;            /* out: bytes */
    uint32_t clock_kind;           /* out: 1 time stamp counter, 2 ns of CLOCK_MONOTONIC */
    uint64_t clock_ns_per_tick_32; /* out: ns a tick, in units of 2^-32 */
    uint64_t state_id;             /* out: inode number */
    uint64_t mount_id;             /* out: as KSTATE_IOC_MOUNT_ID says it */
    uint64_t layout_id;            /* in: caller's, 0: untyped; out: recorded */
    uint32_t layout_text_length;   /* in and out: bytes used of layout_text */
    uint32_t reserved;
    char layout_text[KSTATE_LAYOUT_TEXT_BYTES];
};

#define KSTATE_OUTCOME_OK 0
#define KSTATE_OUTCOME_ABI_VERSION 1
#define KSTATE_OUTCOME_LAYOUT 2

#define KSTATE_TRANSPORT_PASSTHROUGH 1
#define KSTATE_TRANSPORT_SOCKET 2

/* A slot group of the calling process, to be used for as long as this file is open. */
struct kstate_claim {
    uint32_t group;
    uint32_t class_;   /* 0: 64 bytes, 1: 256, 2: 1024, 3: a page */
    uint32_t capacity; /* bytes */
    uint32_t reserved;
};

struct kstate_info {
    uint64_t state_id;
    uint64_t generation;
    uint64_t age_ns;    /* UINT64_MAX: never written or not stamped */
    uint64_t layout_id; /* 0: none */
    uint64_t linger_ms;
    uint64_t deadline_ns; /* 0 for none */
    uint64_t durable;   /* generation in the state's file for good; 0 for none */
    uint32_t length;    /* bytes */
    uint32_t capacity;  /* bytes */
    uint32_t subscribers;
    uint32_t writers;
    uint32_t waiters;
    uint32_t flags;     /* KSTATE_INFO_* */
};

#define KSTATE_INFO_ARMED 1
#define KSTATE_INFO_KEPT 2
#define KSTATE_INFO_OVERDUE 4
#define KSTATE_INFO_KBUS 8  /* announced there */
#define KSTATE_INFO_DBUS 16 /* announced there */
#define KSTATE_INFO_PERSISTENT 32

/* Where commits are announced: any of these, or 0. */
#define KSTATE_ANNOUNCE_KBUS 1
#define KSTATE_ANNOUNCE_DBUS 2

/* The data of a KBUS message about a commit. Little-endian on every machine. */
struct kstate_announcement {
    uint32_t version;    /* KSTATE_ANNOUNCEMENT_VERSION */
    uint32_t length;     /* bytes of the value */
    uint64_t generation;
    uint64_t time_ns;    /* of the commit, since the epoch; 0: not stamped */
    uint32_t pid;        /* of who committed, as the daemon sees it; 0: not known */
    uint32_t reserved;
};

#define KSTATE_ANNOUNCEMENT_VERSION 1

struct kstate_ticket {
    uint8_t secret[16];
    uint32_t address_length; /* bytes */
    uint32_t reserved;
    char address[104];       /* path of the daemon's Unix socket */
};

/* Of a commit of several states; record and round of it are in slot metadata. */
struct kstate_settle {
    uint64_t intent;  /* in */
    uint32_t outcome; /* out: KSTATE_SETTLED_* */
    uint32_t reserved;
};

#define KSTATE_SETTLED_DONE 0
#define KSTATE_SETTLED_NOT_YET 1

/* A while in which polite writers of the state leave it to one group of the caller's. */
struct kstate_turn {
    uint32_t group;        /* in */
    uint32_t microseconds; /* in: wanted; out: given, or 0 */
};

/* A wait: while its mark is set, commits wake who sleeps on the header's `head`, and the daemon who
 * sleeps on its `crowd`. */
struct kstate_wait {
    uint32_t place;        /* in: wanted, out: given: KSTATE_PLACE_* */
    uint32_t milliseconds; /* in: 0: while this file is open; out: for how long the mark stays */
};

#define KSTATE_PLACE_HEAD 1
#define KSTATE_PLACE_CROWD 2

/* A bit for each group. */
struct kstate_groups {
    uint64_t bits[4];
};

#define KSTATE_IOC_SUBSCRIBE _IOWR(KSTATE_IOC_TYPE, 1, struct kstate_subscribe)
#define KSTATE_IOC_CLAIM _IOR(KSTATE_IOC_TYPE, 2, struct kstate_claim)
#define KSTATE_IOC_RELEASE _IOW(KSTATE_IOC_TYPE, 3, uint32_t)
#define KSTATE_IOC_SET_CAPACITY _IOWR(KSTATE_IOC_TYPE, 4, uint32_t)
#define KSTATE_IOC_WAIT_BEGIN _IOWR(KSTATE_IOC_TYPE, 5, struct kstate_wait)
#define KSTATE_IOC_WAIT_END _IO(KSTATE_IOC_TYPE, 6)
#define KSTATE_IOC_SEEN _IOW(KSTATE_IOC_TYPE, 7, uint64_t)
#define KSTATE_IOC_ARM _IO(KSTATE_IOC_TYPE, 8)
#define KSTATE_IOC_SET_LINGER _IOW(KSTATE_IOC_TYPE, 9, uint64_t)
#define KSTATE_IOC_INFO _IOR(KSTATE_IOC_TYPE, 10, struct kstate_info)
#define KSTATE_IOC_TICKET _IOR(KSTATE_IOC_TYPE, 11, struct kstate_ticket)
/* Of .kstate/registry: a record, whose pages are .kstate/intents/N and .kstate/intents/N.list. */
#define KSTATE_IOC_RECORD _IOR(KSTATE_IOC_TYPE, 12, uint32_t)
#define KSTATE_IOC_RELEASE_RECORD _IOW(KSTATE_IOC_TYPE, 14, uint32_t)
#define KSTATE_IOC_SETTLE _IOWR(KSTATE_IOC_TYPE, 13, struct kstate_settle)
#define KSTATE_IOC_TURN _IOWR(KSTATE_IOC_TYPE, 15, struct kstate_turn)
#define KSTATE_IOC_TURN_END _IOW(KSTATE_IOC_TYPE, 16, uint32_t)
#define KSTATE_IOC_SET_DEADLINE _IOW(KSTATE_IOC_TYPE, 17, uint64_t)
#define KSTATE_IOC_SET_ANNOUNCE _IOW(KSTATE_IOC_TYPE, 18, uint32_t)
/* Of a group claimed through a file of a daemon that has ended. */
#define KSTATE_IOC_RECLAIM _IOW(KSTATE_IOC_TYPE, 19, uint32_t)
/* A generation, 0 for the newest: waits until it is in the state's file for good. */
#define KSTATE_IOC_SYNC _IOWR(KSTATE_IOC_TYPE, 20, uint64_t)
#define KSTATE_IOC_SET_DURABILITY _IOW(KSTATE_IOC_TYPE, 21, uint64_t) /* ns, 0: each commit */
/* All handles of the process are connected to this daemon that had the state open before. */
#define KSTATE_IOC_RETURNED _IOW(KSTATE_IOC_TYPE, 24, struct kstate_groups)
/* Of .kstate/registry. */
#define KSTATE_IOC_MOUNT_ID _IOR(KSTATE_IOC_TYPE, 22, uint64_t)
#define KSTATE_IOC_LEAVE _IO(KSTATE_IOC_TYPE, 23)
#define KSTATE_IOC_VERSION _IOR(KSTATE_IOC_TYPE, 255, uint32_t)

#ifdef __cplusplus
}
#endif

#endif /* KSTATE_IOCTL_H */
