//! What a process uses, as `/proc` tells.

use std::fs;

use nix::unistd::Pid;

/// How many descriptors it has open.
///
/// # Panics
///
/// When it has ended.
#[track_caller]
pub fn open_descriptors(process: Pid) -> usize {
    let listed = fs::read_dir(format!("/proc/{process}/fd")).expect("it lives");
    listed.count()
}

/// Bytes of memory that are its own: regions are shared, and not counted.
///
/// # Panics
///
/// When it has ended.
#[track_caller]
pub fn private_bytes(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.expect("since Linux 4.5").trim_end_matches("kB").trim();
    kilobytes.parse::<u64>().expect("a number") * 1024
}

/// User and system time of all its threads so far, in clock ticks of 10 ms (proc_pid_stat(5), utime
/// and stime; USER_HZ is 100).
///
/// # Panics
///
/// When it has ended.
#[track_caller]
pub fn processor_ticks(process: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it lives");
    // Behind the name, which may have anything in it: the 14th and 15th field of the line.
    let (_, rest) = stat.rsplit_once(") ").expect("the name is in brackets");
    let ticks = rest.split(' ').skip(11).take(2);
    ticks
        .map(|ticks| ticks.parse::<u64>().expect("a number"))
        .sum()
}
