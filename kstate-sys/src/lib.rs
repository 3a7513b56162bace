//! What two processes sharing a kstate must agree on.
//!
//! The daemon (`kstatefs`) and the library (`kstate`) meet in the bytes of a *region* and in a
//! handful of ioctls. Everything both sides rely on is here, and nothing else: no allocation on
//! the hot paths, no policy, no choice of where things live.
//!
//! | module | what it fixes |
//! |---|---|
//! | [`abi`] | version, magic, sizes and geometry of a region |
//! | [`name`], [`access`] | which names are legal; the rights a subscription can have |
//! | [`announce`] | what is sent outside after commits, and to whom |
//! | [`duration`] | how durations and rates are written |
//! | [`region`] | the memory protocol: `head`, slots, live page |
//! | [`clock`] | how a commit is stamped without a system call |
//! | [`futex`] | sleeping on `head` and waking who sleeps there |
//! | [`fork`] | how a process notices that it is a forked child |
//! | [`ioctl`] | the daemon's control interface, also as `include/kstate_ioctl.h` |
//! | [`persist`] | making a state persistent over the daemon's socket |
//! | [`probe`] | what this kernel, container and user can do |

#[cfg(not(target_endian = "little"))]
compile_error!("a region is little-endian: `head` keeps the futex word in its first four bytes");
#[cfg(not(target_pointer_width = "64"))]
compile_error!("a region needs 64-bit atomic words");

pub mod abi;
pub mod access;
pub mod announce;
pub mod clock;
pub mod duration;
#[cfg(not(kstate_loom))]
pub mod fork;
#[cfg(not(kstate_loom))]
pub mod futex;
pub mod ioctl;
pub mod name;
pub mod persist;
#[cfg(not(kstate_loom))]
pub mod probe;
pub mod region;
pub mod sync;
