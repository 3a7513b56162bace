use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::eventfd::EventFd;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
const LINES: Framing = Framing::Lines {
    keep_newline: false,
};

/// Runs `test` with means to stop a source, and fails when it has not ended by the deadline.
fn with_stop(test: impl FnOnce(Stop<'_>, &dyn Fn()) + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        let (flag, wake) = (AtomicBool::new(false), EventFd::new().unwrap());
        let tell = || {
            flag.store(true, Ordering::Relaxed);
            wake.write(1).unwrap();
        };
        test(
            Stop {
                flag: &flag,
                wakes: [wake.as_fd(); 2],
            },
            &tell,
        );
        done.send(()).unwrap();
    });
    if wait.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the source still waits");
    }
    thread.join().unwrap();
}

/// A source of the reading end of a pipe, as standard input often is.
fn pipe_source(
    framing: Framing,
    max_length: usize,
    stop: Stop<'_>,
) -> (Source<'_>, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    let framer = Framer::new(framing, max_length);
    let input = Input::Stream {
        file: OwnedFd::from(reader).into(),
        framer,
    };
    (
        Source {
            stop,
            framing,
            max_length,
            input,
        },
        writer,
    )
}

fn unix(path: &Path) -> Address {
    Address::UnixStream(path.to_owned())
}

fn next(source: &mut Source<'_>) -> Option<Vec<u8>> {
    let mut record = b"old".to_vec();
    source.next_record(&mut record).unwrap().map(|()| record)
}

#[test]
fn a_pipe_yields_lines_as_they_arrive_and_ends() {
    with_stop(|stop, _| {
        let (mut source, mut writer) = pipe_source(LINES, 100, stop);
        writer.write_all(b"one\ntw").unwrap();
        assert_eq!(next(&mut source).unwrap(), b"one");
        writer.write_all(b"o\nthree").unwrap();
        assert_eq!(next(&mut source).unwrap(), b"two");
        drop(writer);
        assert_eq!(next(&mut source).unwrap(), b"three");
        assert_eq!(next(&mut source), None);
        assert_eq!(next(&mut source), None);
    });
}

#[test]
fn a_waiting_source_stops_when_told() {
    with_stop(|stop, tell| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (pipe, _writer) = pipe_source(LINES, 100, stop);
        let mut sources = [
            pipe,
            Source::open(&unix(&path), LINES, 9, stop).unwrap(),
            Source::open(&"udp:localhost:0".parse().unwrap(), LINES, 9, stop).unwrap(),
        ];
        thread::scope(|scope| {
            let waiting = sources
                .each_mut()
                .map(|source| scope.spawn(|| next(source)));
            // Nothing is there to read, so the threads are about to wait or do so already; both
            // must end.
            tell();
            for waiting in waiting {
                assert_eq!(waiting.join().unwrap(), None);
            }
        });
    });
}

#[test]
fn a_source_told_to_stop_leaves_records_at_hand() {
    with_stop(|stop, tell| {
        let (mut source, mut writer) = pipe_source(LINES, 100, stop);
        writer.write_all(b"one\ntwo\n").unwrap();
        assert_eq!(next(&mut source).unwrap(), b"one");
        tell();
        assert_eq!(next(&mut source), None);
    });
}

#[test]
fn clients_of_a_stream_socket_take_turns_and_may_stall() {
    with_stop(|stop, _| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut source = Source::open(&unix(&path), LINES, 100, stop).unwrap();
        let mut stalled = UnixStream::connect(&path).unwrap();
        stalled.write_all(b"half").unwrap();
        let mut first = UnixStream::connect(&path).unwrap();
        first.write_all(b"a1\na2").unwrap();
        assert_eq!(next(&mut source).unwrap(), b"a1");
        let mut second = UnixStream::connect(&path).unwrap();
        second.write_all(b"b1\n").unwrap();
        assert_eq!(next(&mut source).unwrap(), b"b1");
        drop(first);
        assert_eq!(next(&mut source).unwrap(), b"a2");
        stalled.write_all(b" and half\n").unwrap();
        assert_eq!(next(&mut source).unwrap(), b"half and half");
        drop(second);
        let mut third = UnixStream::connect(&path).unwrap();
        third.write_all(b"c\n").unwrap();
        assert_eq!(next(&mut source).unwrap(), b"c");
    });
}

#[test]
fn more_clients_than_are_served_at_a_time_are_all_heard() {
    with_stop(|stop, _| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut source = Source::open(&unix(&path), LINES, 100, stop).unwrap();
        const CLIENTS: usize = MAX_CONNECTIONS * 3;
        thread::scope(|scope| {
            scope.spawn(|| {
                for client in 0..CLIENTS {
                    let mut stream = UnixStream::connect(&path).unwrap();
                    writeln!(stream, "{client}").unwrap();
                }
            });
            let mut heard: Vec<usize> = (0..CLIENTS)
                .map(|_| {
                    String::from_utf8(next(&mut source).unwrap())
                        .unwrap()
                        .parse()
                        .unwrap()
                })
                .collect();
            heard.sort_unstable();
            assert!(heard.into_iter().eq(0..CLIENTS));
        });
    });
}

#[test]
fn a_datagram_is_a_record() {
    with_stop(|stop, _| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let address = Address::UnixDatagram(path.clone());
        let mut source = Source::open(&address, LINES, 4, stop).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        for datagram in ["abc\n", "a\nbc", "abcd\n", "", "abcdefgh", "x"] {
            client.send_to(datagram.as_bytes(), &path).unwrap();
        }
        for record in ["abc", "a\nbc", "abcd", ""] {
            assert_eq!(next(&mut source).unwrap(), record.as_bytes());
        }
        let error = source.next_record(&mut Vec::new()).unwrap_err();
        assert!(
            matches!(error, FeedError::TooLong { found: 8, bound: 4 }) && error.is_one_record()
        );
        assert_eq!(next(&mut source).unwrap(), b"x");
    });
}

#[test]
fn a_udp_datagram_of_another_size_is_an_error_with_both_sizes() {
    with_stop(|stop, _| {
        let framing = Framing::Records(NonZeroUsize::new(4).unwrap());
        let address = "udp:127.0.0.1:0".parse().unwrap();
        let mut source = Source::open(&address, framing, 4, stop).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = source.local_address().unwrap();
        client.send_to(b"abcd", to).unwrap();
        client.send_to(b"abcdefghi", to).unwrap();
        client.send_to(b"efgh", to).unwrap();
        assert_eq!(next(&mut source).unwrap(), b"abcd");
        let error = source.next_record(&mut Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "found 9 bytes where a record of 4 bytes belongs"
        );
        assert_eq!(next(&mut source).unwrap(), b"efgh");
    });
}

#[test]
fn records_longer_than_the_state_are_refused_when_opened() {
    with_stop(|stop, _| {
        let framing = Framing::Records(NonZeroUsize::new(5).unwrap());
        let error = Source::open(&Address::Stdin, framing, 4, stop).unwrap_err();
        assert_eq!(
            error.to_string(),
            "records of 5 bytes are longer than the 4 bytes that fit into the state"
        );
    });
}

#[test]
fn a_socket_file_goes_with_its_source_and_a_dead_one_is_replaced() {
    with_stop(|stop, _| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        for address in [unix(&path), Address::UnixDatagram(path.clone())] {
            // A std listener leaves its file behind, as a killed process does.
            drop(UnixListener::bind(&path).unwrap());
            let source = Source::open(&address, LINES, 9, stop).unwrap();
            for other in [unix(&path), Address::UnixDatagram(path.clone())] {
                let error = Source::open(&other, LINES, 9, stop).unwrap_err();
                assert!(matches!(error, OpenError::InUse { .. }), "{error}");
            }
            drop(source);
            assert!(!path.exists());
        }
    });
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    with_stop(|stop, _| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        let error = Source::open(&unix(&path), LINES, 9, stop).unwrap_err();
        assert!(matches!(error, OpenError::NotASocket { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");

        let path = directory.path().join("socket");
        let source = Source::open(&unix(&path), LINES, 9, stop).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(source);
        assert!(path.exists());

        let long = directory.path().join("x".repeat(200));
        let error = Source::open(&unix(&long), LINES, 9, stop).unwrap_err();
        assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    });
}
