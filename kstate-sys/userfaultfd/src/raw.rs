//! The kernel's interface: `<linux/userfaultfd.h>` as of Linux 6.8, in the kernel's spelling.
//!
//! Every structure is all `u64` (or pairs of them), so there is no padding to name. The layouts are
//! asserted below and compared with the installed header in `raw/header_test.rs`.

#[cfg(test)]
mod header_test;

pub(crate) const UFFD_API: u64 = 0xAA;
pub(crate) const UFFD_USER_MODE_ONLY: i32 = 1;

pub(crate) const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
pub(crate) const UFFD_FEATURE_EVENT_FORK: u64 = 1 << 1;
pub(crate) const UFFD_FEATURE_EVENT_REMAP: u64 = 1 << 2;
pub(crate) const UFFD_FEATURE_EVENT_REMOVE: u64 = 1 << 3;
pub(crate) const UFFD_FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
pub(crate) const UFFD_FEATURE_MISSING_SHMEM: u64 = 1 << 5;
pub(crate) const UFFD_FEATURE_EVENT_UNMAP: u64 = 1 << 6;
pub(crate) const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
pub(crate) const UFFD_FEATURE_THREAD_ID: u64 = 1 << 8;
pub(crate) const UFFD_FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
pub(crate) const UFFD_FEATURE_MINOR_SHMEM: u64 = 1 << 10;
pub(crate) const UFFD_FEATURE_EXACT_ADDRESS: u64 = 1 << 11;
pub(crate) const UFFD_FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
pub(crate) const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
pub(crate) const UFFD_FEATURE_POISON: u64 = 1 << 14;
pub(crate) const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
pub(crate) const UFFD_FEATURE_MOVE: u64 = 1 << 16;

pub(crate) const _UFFDIO_REGISTER: u8 = 0x00;
pub(crate) const _UFFDIO_UNREGISTER: u8 = 0x01;
pub(crate) const _UFFDIO_WAKE: u8 = 0x02;
pub(crate) const _UFFDIO_COPY: u8 = 0x03;
pub(crate) const _UFFDIO_ZEROPAGE: u8 = 0x04;
pub(crate) const _UFFDIO_MOVE: u8 = 0x05;
pub(crate) const _UFFDIO_WRITEPROTECT: u8 = 0x06;
pub(crate) const _UFFDIO_CONTINUE: u8 = 0x07;
pub(crate) const _UFFDIO_POISON: u8 = 0x08;
pub(crate) const _UFFDIO_API: u8 = 0x3F;

pub(crate) const UFFDIO_REGISTER_MODE_MISSING: u64 = 1 << 0;
pub(crate) const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
pub(crate) const UFFDIO_REGISTER_MODE_MINOR: u64 = 1 << 2;
pub(crate) const UFFDIO_COPY_MODE_DONTWAKE: u64 = 1 << 0;
pub(crate) const UFFDIO_COPY_MODE_WP: u64 = 1 << 1;
pub(crate) const UFFDIO_ZEROPAGE_MODE_DONTWAKE: u64 = 1 << 0;
pub(crate) const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
pub(crate) const UFFDIO_WRITEPROTECT_MODE_DONTWAKE: u64 = 1 << 1;
pub(crate) const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1 << 0;
pub(crate) const UFFDIO_CONTINUE_MODE_WP: u64 = 1 << 1;
pub(crate) const UFFDIO_POISON_MODE_DONTWAKE: u64 = 1 << 0;
pub(crate) const UFFDIO_MOVE_MODE_DONTWAKE: u64 = 1 << 0;

pub(crate) const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
pub(crate) const UFFD_EVENT_FORK: u8 = 0x13;
pub(crate) const UFFD_EVENT_REMAP: u8 = 0x14;
pub(crate) const UFFD_EVENT_REMOVE: u8 = 0x15;
pub(crate) const UFFD_EVENT_UNMAP: u8 = 0x16;

pub(crate) const UFFD_PAGEFAULT_FLAG_WRITE: u64 = 1 << 0;
pub(crate) const UFFD_PAGEFAULT_FLAG_WP: u64 = 1 << 1;
pub(crate) const UFFD_PAGEFAULT_FLAG_MINOR: u64 = 1 << 2;

/// Declares a structure of the kernel's header and asserts its size, alignment and every offset.
macro_rules! kernel_struct {
    ($(#[$doc:meta])* $name:ident, $size:literal bytes: $($field:ident: $type:ty = $offset:literal,)+) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Default, Clone, Copy)]
        pub(crate) struct $name {
            $(pub(crate) $field: $type,)+
        }
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == 8);
            $(assert!(std::mem::offset_of!($name, $field) == $offset);)+
        };
    };
}
pub(crate) use kernel_struct;

kernel_struct! {
    uffdio_api, 24 bytes:
    api: u64 = 0,
    features: u64 = 8,
    ioctls: u64 = 16,
}
kernel_struct! {
    uffdio_range, 16 bytes:
    start: u64 = 0,
    len: u64 = 8,
}
kernel_struct! {
    uffdio_register, 32 bytes:
    range: uffdio_range = 0,
    mode: u64 = 16,
    ioctls: u64 = 24,
}
kernel_struct! {
    uffdio_copy, 40 bytes:
    dst: u64 = 0,
    src: u64 = 8,
    len: u64 = 16,
    mode: u64 = 24,
    copy: i64 = 32,
}
kernel_struct! {
    uffdio_zeropage, 32 bytes:
    range: uffdio_range = 0,
    mode: u64 = 16,
    zeropage: i64 = 24,
}
kernel_struct! {
    uffdio_writeprotect, 24 bytes:
    range: uffdio_range = 0,
    mode: u64 = 16,
}
kernel_struct! {
    uffdio_continue, 32 bytes:
    range: uffdio_range = 0,
    mode: u64 = 16,
    mapped: i64 = 24,
}
kernel_struct! {
    uffdio_poison, 32 bytes:
    range: uffdio_range = 0,
    mode: u64 = 16,
    updated: i64 = 24,
}
kernel_struct! {
    /// The kernel names the last field `move`, which is a word of Rust's.
    uffdio_move, 40 bytes:
    dst: u64 = 0,
    src: u64 = 8,
    len: u64 = 16,
    mode: u64 = 24,
    moved: i64 = 32,
}
kernel_struct! {
    /// What `read(2)` yields. The kernel's `arg` is a union of at most three 64-bit words; which of
    /// its members is meant follows from `event`, and `event.rs` takes the words apart.
    uffd_msg, 32 bytes:
    event: u8 = 0,
    reserved1: u8 = 1,
    reserved2: u16 = 2,
    reserved3: u32 = 4,
    arg: [u64; 3] = 8,
}

const UFFDIO: u8 = 0xAA;
// The header admits that these two should have been _IOW; they are what they are.
nix::ioctl_read!(
    uffdio_unregister_call,
    UFFDIO,
    _UFFDIO_UNREGISTER,
    uffdio_range
);
nix::ioctl_read!(uffdio_wake_call, UFFDIO, _UFFDIO_WAKE, uffdio_range);
nix::ioctl_readwrite!(uffdio_api_call, UFFDIO, _UFFDIO_API, uffdio_api);
nix::ioctl_readwrite!(
    uffdio_register_call,
    UFFDIO,
    _UFFDIO_REGISTER,
    uffdio_register
);
nix::ioctl_readwrite!(uffdio_copy_call, UFFDIO, _UFFDIO_COPY, uffdio_copy);
nix::ioctl_readwrite!(
    uffdio_zeropage_call,
    UFFDIO,
    _UFFDIO_ZEROPAGE,
    uffdio_zeropage
);
nix::ioctl_readwrite!(
    uffdio_writeprotect_call,
    UFFDIO,
    _UFFDIO_WRITEPROTECT,
    uffdio_writeprotect
);
nix::ioctl_readwrite!(
    uffdio_continue_call,
    UFFDIO,
    _UFFDIO_CONTINUE,
    uffdio_continue
);
nix::ioctl_readwrite!(uffdio_poison_call, UFFDIO, _UFFDIO_POISON, uffdio_poison);
nix::ioctl_readwrite!(uffdio_move_call, UFFDIO, _UFFDIO_MOVE, uffdio_move);
// On /dev/userfaultfd; the argument is the flags word of userfaultfd(2) itself.
nix::ioctl_write_int_bad!(userfaultfd_ioc_new, nix::request_code_none!(UFFDIO, 0x00));

/// The kernel's `_IOC` formula, as `<asm-generic/ioctl.h>` has it (x86-64 and aarch64 alike).
pub(crate) const fn ioc(dir: u64, ty: u8, nr: u8, size: usize) -> u64 {
    dir << 30 | (size as u64) << 16 | (ty as u64) << 8 | nr as u64
}

const _IOC_NONE: u64 = 0;
const _IOC_READ: u64 = 2;
pub(crate) const _IOC_READ_WRITE: u64 = 3;

/// Asserts that nix's number, the formula's and the one written out are the same.
macro_rules! assert_ioctl {
    ($number:literal = read $nr:ident $type:ty) => {
        const _: () = assert!($number == ioc(_IOC_READ, UFFDIO, $nr, size_of::<$type>()));
        const _: () = assert!($number == nix::request_code_read!(UFFDIO, $nr, size_of::<$type>()));
    };
    ($number:literal = read_write $nr:ident $type:ty) => {
        const _: () = assert!($number == ioc(_IOC_READ_WRITE, UFFDIO, $nr, size_of::<$type>()));
        const _: () =
            assert!($number == nix::request_code_readwrite!(UFFDIO, $nr, size_of::<$type>()));
    };
}
const _: () = assert!(0xAA00 == ioc(_IOC_NONE, UFFDIO, 0, 0));
assert_ioctl!(0xC018_AA3F = read_write _UFFDIO_API uffdio_api);
assert_ioctl!(0xC020_AA00 = read_write _UFFDIO_REGISTER uffdio_register);
assert_ioctl!(0x8010_AA01 = read _UFFDIO_UNREGISTER uffdio_range);
assert_ioctl!(0x8010_AA02 = read _UFFDIO_WAKE uffdio_range);
assert_ioctl!(0xC028_AA03 = read_write _UFFDIO_COPY uffdio_copy);
assert_ioctl!(0xC020_AA04 = read_write _UFFDIO_ZEROPAGE uffdio_zeropage);
assert_ioctl!(0xC028_AA05 = read_write _UFFDIO_MOVE uffdio_move);
assert_ioctl!(0xC018_AA06 = read_write _UFFDIO_WRITEPROTECT uffdio_writeprotect);
assert_ioctl!(0xC020_AA07 = read_write _UFFDIO_CONTINUE uffdio_continue);
assert_ioctl!(0xC020_AA08 = read_write _UFFDIO_POISON uffdio_poison);
