//! Announcing on KBUS, by its device.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kstate_sys::announce::Record;
use kstate_sys::name::StateName;
use zerocopy::IntoBytes;

use super::message;
use super::outlet::Sink;
use super::sink::{Cause, Refused};
use crate::errno;

/// `KBUS_IOC_SEND` of its `kbus_defns.h`, `_IOR('k', 8, char *)`: sends the message that was written, and
/// says the id it got.
const SEND: u32 = 2 << 30 | 8 << 16 | (b'k' as u32) << 8 | 8;
const _: () = assert!(SEND == 0x8008_6b08 && size_of::<usize>() == 8);

/// A device of KBUS, open once there was something to send.
#[derive(Debug)]
pub(super) struct Kbus {
    path: PathBuf,
    prefix: String,
    device: Option<File>,
}

impl Kbus {
    pub(super) fn new(path: PathBuf, prefix: String) -> Self {
        Self {
            path,
            prefix,
            device: None,
        }
    }
}

impl Sink for Kbus {
    fn send(&mut self, name: &StateName, record: &Record) -> Result<(), Refused> {
        let name = format!("{}.{name}", self.prefix);
        let message = message::announcement(&name, record.as_bytes());
        // Taken out: closed after a failure, which drops the message that KBUS has begun, and a
        // device that was made anew is found.
        let mut device = match self.device.take() {
            Some(device) => device,
            None => open(&self.path).map_err(|error| refused(error, Cause::Absent))?,
        };
        send(&mut device, &message).map_err(|error| refused(error, Cause::Failed))?;
        self.device = Some(device);
        Ok(())
    }
}

/// For reading as well: that is how KBUS's own library opens it to send. Nothing is ever bound, so
/// nothing comes in.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
}

/// By one write: a message in two parts would be two to a device that is shared.
fn send(device: &mut File, message: &[u8]) -> io::Result<()> {
    let written = device.write(message)?;
    if written != message.len() {
        return Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("{written} bytes of {} were taken", message.len()),
        ));
    }
    let mut id = 0_u64;
    #[expect(unsafe_code, reason = "an ioctl of a driver that no crate knows")]
    // SAFETY: `id` has the eight bytes that the number says the kernel writes, and any are a value.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::Ioctl::from(SEND), &raw mut id) };
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn refused(error: io::Error, otherwise: Cause) -> Refused {
    let cause = match errno::means_full(&error) {
        true => Cause::Full,
        false => otherwise,
    };
    Refused {
        cause,
        error: error.into(),
    }
}
