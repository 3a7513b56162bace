//! What the demo publishes: this machine's load, sampled from `/proc`.
//!
//! Each sample is plain old data that ends in a sequence number and a check over everything before
//! it ([`Checked`]), so that a reader that is handed a torn value finds out.

mod checked;
mod parse;
mod proc_file;

use std::io;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

pub(crate) use self::checked::{Checked, Sample};
pub(crate) use self::parse::ParseError;
use self::proc_file::ProcFile;

kstate::layout! {
    /// What the processors did since boot, from `/proc/stat`; times are summed over all processors, in
    /// ticks (a hundredth of a second on every machine Linux runs on today).
    #[derive(Eq)]
    pub(crate) struct CpuSample {
        /// Ticks in user mode.
        pub user: u64,
        /// Ticks in user mode at low priority.
        pub nice: u64,
        /// Ticks in the kernel.
        pub system: u64,
        /// Ticks with nothing to do.
        pub idle: u64,
        /// Ticks with nothing to do but wait for a disk.
        pub iowait: u64,
        /// Ticks in interrupts.
        pub irq: u64,
        /// Ticks in deferred interrupts.
        pub softirq: u64,
        /// Ticks the hypervisor gave to others.
        pub steal: u64,
        /// Context switches.
        pub context_switches: u64,
        /// Processes and threads started.
        pub processes: u64,
        /// Threads running or ready to, now.
        pub running: u64,
        /// When it was published, in nanoseconds of `CLOCK_MONOTONIC`.
        pub published_ns: u64,
        /// The number of this sample.
        pub sequence: u64,
        /// The check over all words above.
        pub check: u64,
    }

    /// The memory of this machine, from `/proc/meminfo`, in KiB.
    #[derive(Eq)]
    pub(crate) struct MemorySample {
        /// All memory the kernel manages.
        pub total_kib: u64,
        /// Memory in no use at all.
        pub free_kib: u64,
        /// Memory that a program could have without swapping.
        pub available_kib: u64,
        /// Buffers of block devices.
        pub buffers_kib: u64,
        /// The page cache.
        pub cached_kib: u64,
        /// All swap space.
        pub swap_total_kib: u64,
        /// Swap space in no use.
        pub swap_free_kib: u64,
        /// When it was published, in nanoseconds of `CLOCK_MONOTONIC`.
        pub published_ns: u64,
        /// The number of this sample.
        pub sequence: u64,
        /// The check over all words above.
        pub check: u64,
    }

    /// What went over the network since boot, from `/proc/net/dev`: summed over all interfaces but
    /// `lo`, and `lo` apart.
    #[derive(Eq)]
    pub(crate) struct NetworkSample {
        /// Bytes received.
        pub received_bytes: u64,
        /// Packets received.
        pub received_packets: u64,
        /// Packets received with errors.
        pub received_errors: u64,
        /// Packets received for which there was no room.
        pub received_dropped: u64,
        /// Bytes sent.
        pub sent_bytes: u64,
        /// Packets sent.
        pub sent_packets: u64,
        /// Packets not sent for errors.
        pub sent_errors: u64,
        /// Packets not sent for want of room.
        pub sent_dropped: u64,
        /// Bytes received over `lo`.
        pub loopback_bytes: u64,
        /// Packets received over `lo`.
        pub loopback_packets: u64,
        /// How many interfaces there are, `lo` left out.
        pub interfaces: u64,
        /// When it was published, in nanoseconds of `CLOCK_MONOTONIC`.
        pub published_ns: u64,
        /// The number of this sample.
        pub sequence: u64,
        /// The check over all words above.
        pub check: u64,
    }

    /// The load averages, from `/proc/loadavg`.
    pub(crate) struct LoadSample {
        /// Threads running or waiting for a disk, averaged over a minute.
        pub one_minute: f64,
        /// The same over five minutes.
        pub five_minutes: f64,
        /// The same over fifteen minutes.
        pub fifteen_minutes: f64,
        /// Threads running or ready to, now.
        pub running: u32,
        /// Threads there are.
        pub threads: u32,
        /// The process or thread started last.
        pub last_pid: u64,
        /// When it was published, in nanoseconds of `CLOCK_MONOTONIC`.
        pub published_ns: u64,
        /// The number of this sample.
        pub sequence: u64,
        /// The check over all words above.
        pub check: u64,
    }
}

/// Asserts that a sample is whole words and ends as [`Checked`] expects.
macro_rules! assert_sample {
    ($($sample:ty: $bytes:literal bytes;)*) => {$(
        impl Sample for $sample {}
        const _: () = assert!(size_of::<$sample>() == $bytes);
        const _: () = assert!(offset_of!($sample, published_ns) == $bytes - 24);
        const _: () = assert!(offset_of!($sample, sequence) == $bytes - 16);
        const _: () = assert!(offset_of!($sample, check) == $bytes - 8);
    )*};
}

assert_sample! {
    CpuSample: 112 bytes;
    MemorySample: 80 bytes;
    NetworkSample: 112 bytes;
    LoadSample: 64 bytes;
}

/// Samples this machine again and again at little cost.
///
/// # Cost
///
/// A sample of one kind is two or more `pread` calls of a file that stays open, into a buffer that
/// is reused, and a pass over its text. Nothing is allocated once the buffers have grown.
#[derive(Debug)]
pub(crate) struct Sampler {
    stat: ProcFile,
    meminfo: ProcFile,
    net_dev: ProcFile,
    loadavg: ProcFile,
}

impl Sampler {
    /// Opens the files in `/proc`.
    ///
    /// # Errors
    ///
    /// A file cannot be opened; nothing stays open.
    pub(crate) fn open() -> Result<Self, SampleError> {
        Self::open_in(Path::new("/proc"))
    }

    /// Opens the files in another directory than `/proc`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub(crate) fn open_in(root: &Path) -> Result<Self, SampleError> {
        Ok(Self {
            stat: ProcFile::open(root.join("stat"))?,
            meminfo: ProcFile::open(root.join("meminfo"))?,
            net_dev: ProcFile::open(root.join("net/dev"))?,
            loadavg: ProcFile::open(root.join("loadavg"))?,
        })
    }

    /// Samples the processors; the sample is not sealed yet.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its text is not what the kernel documents.
    pub(crate) fn cpu(&mut self) -> Result<CpuSample, SampleError> {
        self.stat.sample(CpuSample::parse)
    }

    /// Samples the memory; the sample is not sealed yet.
    ///
    /// # Errors
    ///
    /// As [`cpu`](Self::cpu).
    pub(crate) fn memory(&mut self) -> Result<MemorySample, SampleError> {
        self.meminfo.sample(MemorySample::parse)
    }

    /// Samples the network; the sample is not sealed yet.
    ///
    /// # Errors
    ///
    /// As [`cpu`](Self::cpu).
    pub(crate) fn network(&mut self) -> Result<NetworkSample, SampleError> {
        self.net_dev.sample(NetworkSample::parse)
    }

    /// Samples the load averages; the sample is not sealed yet.
    ///
    /// # Errors
    ///
    /// As [`cpu`](Self::cpu).
    pub(crate) fn load(&mut self) -> Result<LoadSample, SampleError> {
        self.loadavg.sample(LoadSample::parse)
    }
}

/// A sample that could not be taken; the next one may be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SampleError {
    /// A file cannot be opened.
    #[error("cannot open {path}: {source}; is /proc mounted?")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file holds something else than the kernel documents.
    #[error("{path} is not as the kernel's documentation has it: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ParseError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_sampled_again_and_again() {
        let mut sampler = Sampler::open().unwrap();
        let mut before = sampler.cpu().unwrap();
        for sequence in 1..=50 {
            let mut cpu = sampler.cpu().unwrap();
            assert!(cpu.context_switches >= before.context_switches);
            assert!(cpu.user >= before.user && cpu.running >= 1);
            cpu.seal(0, sequence);
            assert!(cpu.is_whole());
            before = cpu;

            let memory = sampler.memory().unwrap();
            assert!(memory.total_kib > 0 && memory.free_kib <= memory.total_kib);
            assert!(memory.available_kib <= memory.total_kib);
            assert!(memory.swap_free_kib <= memory.swap_total_kib);

            let load = sampler.load().unwrap();
            assert!(load.one_minute >= 0.0 && load.threads >= load.running && load.last_pid > 0);

            sampler.network().unwrap();
        }
    }

    #[test]
    fn a_missing_or_foreign_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = Sampler::open_in(directory.path()).unwrap_err();
        assert!(matches!(&error, SampleError::Open { path, .. } if path.ends_with("stat")));

        std::fs::create_dir(directory.path().join("net")).unwrap();
        for name in ["stat", "meminfo", "net/dev", "loadavg"] {
            std::fs::write(directory.path().join(name), "x\n".repeat(10_000)).unwrap();
        }
        let mut sampler = Sampler::open_in(directory.path()).unwrap();
        let errors = [
            sampler.cpu().unwrap_err(),
            sampler.memory().unwrap_err(),
            sampler.network().unwrap_err(),
            sampler.load().unwrap_err(),
        ];
        assert!(
            errors
                .iter()
                .all(|error| matches!(error, SampleError::Parse { .. }))
        );
    }
}
