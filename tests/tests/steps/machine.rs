//! What is the processor's: registers and instructions of a process that stands.

pub(crate) use this::{
    instruction_pointer, is_atomic, remove_breakpoint, set_breakpoint, set_instruction_pointer,
};

/// Whether processes can be stepped along here.
///
/// On other processors a loop of exclusive loads and stores never ends that is stopped in its
/// middle each time round, and instructions and registers are others.
pub(crate) const fn is_possible() -> bool {
    cfg!(target_arch = "x86_64")
}

#[cfg(target_arch = "x86_64")]
mod this {
    use std::ffi::{c_long, c_void};

    use nix::sys::ptrace;
    use nix::unistd::Pid;

    /// `int3`, after which the process stands behind it.
    const BREAKPOINT: c_long = 0xcc;

    pub(crate) fn instruction_pointer(pid: Pid) -> u64 {
        ptrace::getregs(pid).expect("it stands").rip
    }

    pub(crate) fn set_instruction_pointer(pid: Pid, address: u64) -> nix::Result<()> {
        let mut registers = ptrace::getregs(pid)?;
        registers.rip = address;
        ptrace::setregs(pid, registers)
    }

    /// Returns what was there.
    pub(crate) fn set_breakpoint(pid: Pid, address: u64) -> nix::Result<c_long> {
        let text = ptrace::read(pid, place(address))?;
        ptrace::write(pid, place(address), text & !0xff | BREAKPOINT)?;
        Ok(text)
    }

    pub(crate) fn remove_breakpoint(pid: Pid, address: u64, text: c_long) -> nix::Result<()> {
        ptrace::write(pid, place(address), text)
    }

    /// Whether the instruction at `address` reads and writes memory in one: it has the prefix
    /// `lock`, or is an `xchg`. Which prefix comes first is not said, but one of size may.
    pub(crate) fn is_atomic(pid: Pid, address: u64) -> bool {
        let bytes = ptrace::read(pid, place(address)).unwrap_or(0).to_le_bytes();
        let mut bytes = bytes.into_iter().skip_while(|byte| *byte == 0x66);
        match bytes.next() {
            Some(0xf0) => true,
            Some(0x40..=0x4f) => matches!(bytes.next(), Some(0x86 | 0x87)),
            Some(first) => matches!(first, 0x86 | 0x87),
            None => false,
        }
    }

    fn place(address: u64) -> *mut c_void {
        std::ptr::without_provenance_mut(usize::try_from(address).expect("an address"))
    }
}

/// Refused by `is_possible`.
#[cfg(not(target_arch = "x86_64"))]
mod this {
    use std::ffi::c_long;

    use nix::errno::Errno;
    use nix::unistd::Pid;

    pub(crate) fn instruction_pointer(_: Pid) -> u64 {
        0
    }

    pub(crate) fn set_instruction_pointer(_: Pid, _: u64) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }

    pub(crate) fn set_breakpoint(_: Pid, _: u64) -> nix::Result<c_long> {
        Err(Errno::ENOSYS)
    }

    pub(crate) fn remove_breakpoint(_: Pid, _: u64, _: c_long) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }

    pub(crate) fn is_atomic(_: Pid, _: u64) -> bool {
        false
    }
}
