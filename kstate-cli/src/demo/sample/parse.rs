//! The text of the files in `/proc`, as the kernel's `Documentation/filesystems/proc.rst` has it.

use std::str::{self, FromStr};

use zerocopy::FromZeros;

use super::{CpuSample, LoadSample, MemorySample, NetworkSample};

/// A text that is not what the kernel documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ParseError {
    /// A value is not there.
    #[error("found no `{field}`")]
    Missing {
        /// The value.
        field: &'static str,
    },
    /// A value is not a number, or too great a one.
    #[error("`{field}` is `{found}`, which is no number below 2^64")]
    NotANumber {
        /// The value.
        field: &'static str,
        /// What is there.
        found: String,
    },
}

impl CpuSample {
    /// Reads the text of `/proc/stat`.
    ///
    /// # Errors
    ///
    /// A value is missing or not a number.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let mut lines = LabelledLines::new(text);
        let mut cpu = Words(lines.after("cpu ")?);
        Ok(Self {
            user: cpu.number("cpu user")?,
            nice: cpu.number("cpu nice")?,
            system: cpu.number("cpu system")?,
            idle: cpu.number("cpu idle")?,
            iowait: cpu.number("cpu iowait")?,
            irq: cpu.number("cpu irq")?,
            softirq: cpu.number("cpu softirq")?,
            steal: cpu.number("cpu steal")?,
            context_switches: lines.number("ctxt ")?,
            processes: lines.number("processes ")?,
            running: lines.number("procs_running ")?,
            ..Self::new_zeroed()
        })
    }
}

impl MemorySample {
    /// Reads the text of `/proc/meminfo`.
    ///
    /// # Errors
    ///
    /// A value is missing or not a number.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let mut lines = LabelledLines::new(text);
        Ok(Self {
            total_kib: lines.number("MemTotal:")?,
            free_kib: lines.number("MemFree:")?,
            available_kib: lines.number("MemAvailable:")?,
            buffers_kib: lines.number("Buffers:")?,
            cached_kib: lines.number("Cached:")?,
            swap_total_kib: lines.number("SwapTotal:")?,
            swap_free_kib: lines.number("SwapFree:")?,
            ..Self::new_zeroed()
        })
    }
}

impl NetworkSample {
    /// Reads the text of `/proc/net/dev`.
    ///
    /// # Errors
    ///
    /// There is no interface at all, or a value is missing or not a number.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let mut sum = Self::new_zeroed();
        let mut any = false;
        for line in text.split(|byte| *byte == b'\n') {
            // The two lines of headings have no colon.
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            any = true;
            let mut counters = Words(&line[colon + 1..]);
            let received_bytes = counters.number("received bytes")?;
            let received_packets = counters.number("received packets")?;
            if line[..colon].trim_ascii() == b"lo" {
                sum.loopback_bytes = received_bytes;
                sum.loopback_packets = received_packets;
                continue;
            }
            let add = |sum: &mut u64, counter: u64| *sum = sum.wrapping_add(counter);
            add(&mut sum.received_bytes, received_bytes);
            add(&mut sum.received_packets, received_packets);
            add(&mut sum.received_errors, counters.number("receive errs")?);
            add(&mut sum.received_dropped, counters.number("receive drop")?);
            for field in [
                "receive fifo",
                "receive frame",
                "receive compressed",
                "multicast",
            ] {
                counters.number::<u64>(field)?;
            }
            add(&mut sum.sent_bytes, counters.number("transmitted bytes")?);
            add(
                &mut sum.sent_packets,
                counters.number("transmitted packets")?,
            );
            add(&mut sum.sent_errors, counters.number("transmit errs")?);
            add(&mut sum.sent_dropped, counters.number("transmit drop")?);
            sum.interfaces += 1;
        }
        if any {
            Ok(sum)
        } else {
            Err(ParseError::Missing { field: "interface" })
        }
    }
}

impl LoadSample {
    /// Reads the text of `/proc/loadavg`.
    ///
    /// # Errors
    ///
    /// A value is missing or not a number.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, ParseError> {
        let mut words = Words(text);
        let one_minute = words.average("one minute")?;
        let five_minutes = words.average("five minutes")?;
        let fifteen_minutes = words.average("fifteen minutes")?;
        let threads = words.next("running/threads")?;
        let slash = threads
            .iter()
            .position(|byte| *byte == b'/')
            .unwrap_or(threads.len());
        let (running, threads) = threads.split_at(slash);
        Ok(Self {
            one_minute,
            five_minutes,
            fifteen_minutes,
            running: number("running", running)?,
            threads: number("threads", threads.strip_prefix(b"/").unwrap_or_default())?,
            last_pid: words.number("last process")?,
            ..Self::new_zeroed()
        })
    }
}

/// Lines that begin with a label.
struct LabelledLines<'t> {
    text: &'t [u8],
    rest: &'t [u8],
}

impl<'t> LabelledLines<'t> {
    fn new(text: &'t [u8]) -> Self {
        Self { text, rest: text }
    }

    /// What follows a label on its line. Labels asked for in their order cost one pass in all.
    fn after(&mut self, label: &'static str) -> Result<&'t [u8], ParseError> {
        for mut rest in [self.rest, self.text] {
            while !rest.is_empty() {
                let end = rest
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .unwrap_or(rest.len());
                let line = &rest[..end];
                rest = rest.get(end + 1..).unwrap_or_default();
                if let Some(value) = line.strip_prefix(label.as_bytes()) {
                    self.rest = rest;
                    return Ok(value);
                }
            }
        }
        Err(ParseError::Missing {
            field: label.trim_end_matches([' ', ':']),
        })
    }

    fn number(&mut self, label: &'static str) -> Result<u64, ParseError> {
        Words(self.after(label)?).number(label.trim_end_matches([' ', ':']))
    }
}

/// Words parted by white space.
struct Words<'t>(&'t [u8]);

impl<'t> Words<'t> {
    fn next(&mut self, field: &'static str) -> Result<&'t [u8], ParseError> {
        let text = self.0.trim_ascii_start();
        let end = text
            .iter()
            .position(u8::is_ascii_whitespace)
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        if word.is_empty() {
            Err(ParseError::Missing { field })
        } else {
            Ok(word)
        }
    }

    fn number<N: FromStr>(&mut self, field: &'static str) -> Result<N, ParseError> {
        number(field, self.next(field)?)
    }

    fn average(&mut self, field: &'static str) -> Result<f64, ParseError> {
        let word = self.next(field)?;
        let average: f64 = number(field, word)?;
        // `NaN` and `inf` are numbers to the standard library.
        if average.is_finite() {
            Ok(average)
        } else {
            Err(not_a_number(field, word))
        }
    }
}

fn number<N: FromStr>(field: &'static str, word: &[u8]) -> Result<N, ParseError> {
    let number = str::from_utf8(word).ok().and_then(|word| word.parse().ok());
    number.ok_or_else(|| not_a_number(field, word))
}

fn not_a_number(field: &'static str, word: &[u8]) -> ParseError {
    const LONGEST_BYTES: usize = 40;
    let found = word.get(..LONGEST_BYTES).unwrap_or(word);
    ParseError::NotANumber {
        field,
        found: String::from_utf8_lossy(found).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    use super::super::Sample;
    use super::*;

    const STAT: &str = "\
cpu  882 1 1473 163235 236 2 19 11 0 0
cpu0 280 0 471 82154 11 0 2 3 0 0
cpu1 602 1 1002 81081 225 2 17 8 0 0
intr 105057 0 0 1 14 0 165 39
ctxt 221903
btime 1795433776
processes 3266
procs_running 1
procs_blocked 0
softirq 74054 0 10627 6 3519 25462 0 186 20569 0 13685
";

    const MEMINFO: &str = "\
MemTotal:       24684084 kB
MemFree:        24534576 kB
MemAvailable:   24446956 kB
Buffers:            2216 kB
Cached:            28716 kB
SwapCached:            7 kB
Active:             9480 kB
SwapTotal:          4096 kB
SwapFree:           4095 kB
";

    const NET_DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0
  eth0: 71011455    3439    1    2    0     0          0         0   205824    1925    3    4    0
  wlan0:45 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0
";

    const LOADAVG: &str = "0.08 0.03 12.51 2/82 3267\n";

    fn words<const N: usize>(sample: &impl Sample) -> [u64; N] {
        <[u64; N]>::read_from_prefix(sample.as_bytes()).unwrap().0
    }

    #[test]
    fn the_processors_are_read() {
        let sample = CpuSample::parse(STAT.as_bytes()).unwrap();
        assert_eq!(words::<8>(&sample), [882, 1, 1473, 163_235, 236, 2, 19, 11]);
        assert_eq!(
            (sample.context_switches, sample.processes, sample.running),
            (221_903, 3266, 1)
        );
    }

    #[test]
    fn the_memory_is_read() {
        let sample = MemorySample::parse(MEMINFO.as_bytes()).unwrap();
        assert_eq!(
            words::<7>(&sample),
            [24_684_084, 24_534_576, 24_446_956, 2216, 28_716, 4096, 4095]
        );
    }

    #[test]
    fn lines_in_another_order_are_found() {
        let reversed: Vec<_> = MEMINFO.lines().rev().collect();
        assert_eq!(
            MemorySample::parse(reversed.join("\n").as_bytes()),
            MemorySample::parse(MEMINFO.as_bytes())
        );
    }

    #[test]
    fn the_network_is_summed_and_loopback_kept_apart() {
        let sample = NetworkSample::parse(NET_DEV.as_bytes()).unwrap();
        assert_eq!(
            words::<11>(&sample),
            [71_011_500, 3440, 1, 2, 205_830, 1926, 3, 4, 3193, 29, 2]
        );
    }

    #[test]
    fn the_load_is_read() {
        let sample = LoadSample::parse(LOADAVG.as_bytes()).unwrap();
        assert_eq!(
            [
                sample.one_minute,
                sample.five_minutes,
                sample.fifteen_minutes
            ],
            [0.08, 0.03, 12.51]
        );
        assert_eq!(
            (sample.running, sample.threads, sample.last_pid),
            (2, 82, 3267)
        );
    }

    #[test]
    fn malformed_text_is_an_error_that_names_the_value() {
        let missing = |field| Err(ParseError::Missing { field });
        let garbled = |field, found: &str| {
            Err(ParseError::NotANumber {
                field,
                found: found.to_owned(),
            })
        };
        let cpu = |text: &str| CpuSample::parse(text.as_bytes()).map(|_| ());
        assert_eq!(cpu(""), missing("cpu"));
        assert_eq!(cpu("cpu  1 2 3"), missing("cpu idle"));
        assert_eq!(cpu(&STAT.replace("ctxt", "text")), missing("ctxt"));
        assert_eq!(cpu(&STAT.replace("3266", "-1")), garbled("processes", "-1"));
        let beyond = "18446744073709551616";
        assert_eq!(
            cpu(&STAT.replace("221903", beyond)),
            garbled("ctxt", beyond)
        );

        let memory = |text: &str| MemorySample::parse(text.as_bytes()).map(|_| ());
        assert_eq!(memory(&MEMINFO.replace("Buffers:", "")), missing("Buffers"));
        assert_eq!(memory("MemTotal:\nMemFree: 1 kB"), missing("MemTotal"));

        let network = |text: &str| NetworkSample::parse(text.as_bytes()).map(|_| ());
        assert_eq!(network("Inter-| Receive\n"), missing("interface"));
        assert_eq!(network("eth0: 1 2 3"), missing("receive drop"));
        assert_eq!(network("eth0: 1 x"), garbled("received packets", "x"));

        let load = |text: &str| LoadSample::parse(text.as_bytes()).map(|_| ());
        assert_eq!(load("0.1 0.2"), missing("fifteen minutes"));
        assert_eq!(load("0.1 0.2 inf 1/2 3"), garbled("fifteen minutes", "inf"));
        assert_eq!(load("0.1 0.2 0.3 12 3"), garbled("threads", ""));
        assert_eq!(
            load("0.1 0.2 0.3 1/4294967296 3"),
            garbled("threads", "4294967296")
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(
            text in "(cpu|ctxt|lo|MemTotal|[0-9a-zé:/. \n-]){0,40}",
            cut in 0..STAT.len(),
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            for text in [text.as_bytes(), &STAT.as_bytes()[..cut], &bytes] {
                let _ = CpuSample::parse(text);
                let _ = MemorySample::parse(text);
                let _ = NetworkSample::parse(text);
                let _ = LoadSample::parse(text);
            }
        }
    }
}
