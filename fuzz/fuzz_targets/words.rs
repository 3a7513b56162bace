#![no_main]
//! Text and numbers that come from elsewhere: names of states, what stands in ioctls.

use kstate_sys::clock::Clock;
use kstate_sys::ioctl::{Subscribe, Ticket};
use kstate_sys::name::{MAX_NAME_BYTES, StateName};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromBytes;

fuzz_target!(|bytes: &[u8]| {
    let legal = (1..=MAX_NAME_BYTES).contains(&bytes.len())
        && bytes.split(|byte| *byte == b'.').all(is_word);
    match StateName::new(bytes) {
        Ok(name) => {
            assert!(legal, "{name:?}");
            assert_eq!(name.as_str().as_bytes(), bytes);
        }
        Err(error) => {
            assert!(!legal, "{error}");
            assert!(error.errno() > 0 && !error.to_string().is_empty());
        }
    }
    if let Ok((subscribe, _)) = Subscribe::read_from_prefix(bytes) {
        let mut again = Subscribe::default();
        if let Some(text) = subscribe.layout_text() {
            again.set_layout_text(text);
            assert_eq!(again.layout_text(), Some(text));
        }
        let _ = Clock::from_raw(subscribe.clock_kind, subscribe.clock_ns_per_tick_32);
    }
    if let Ok((ticket, _)) = Ticket::read_from_prefix(bytes) {
        assert!(ticket.path().is_none_or(|path| path.len() <= 104));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let mut subscribe = Subscribe::default();
        subscribe.set_layout_text(text);
        let kept = subscribe.layout_text().expect("cut between characters");
        assert!(text.starts_with(kept));
    }
});

fn is_word(word: &[u8]) -> bool {
    let is_legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-".contains(byte);
    !word.is_empty() && word.iter().all(is_legal)
}
