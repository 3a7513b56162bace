//! libkstate, by the programs in C and C++ that it is tested with. What takes more than a compiler of C is run by
//! `ci/c.sh`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::process::Command;

use kstate_tests::{Compiled, Daemon, Place, Running, Setup, c_sources, eventually, libkstate};
use nix::sys::signal::{Signal, kill};

/// In what C and C++ have in common.
const PROGRAMS: [&str; 5] = [
    "abi.c",
    "original.c",
    "spellings.c",
    "misuse.c",
    "sharing.c",
];
/// As the header promises to serve.
const COMPILERS: [&str; 4] = [
    "cc -std=c11",
    "cc -std=gnu17",
    "c++ -xc++ -std=c++11",
    "c++ -xc++ -std=c++20",
];

/// Runs it on both transports; it says nothing, because all is well and nobody asked.
#[track_caller]
fn runs_silently(compiler: &str, program: &str, wrapper: &[&str]) {
    let compiled = Compiled::of(compiler, program).unwrap();
    for setup in [Setup::default(), Setup::default().with("--passthrough=off")] {
        let daemon = setup.start();
        let output = compiled.run(wrapper, daemon.mount());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} by {compiler}: {}: {said}",
            output.status
        );
        if wrapper.is_empty() {
            assert_eq!(
                (&*said, &output.stdout[..]),
                ("", &b""[..]),
                "{program} by {compiler}"
            );
        }
    }
}

#[test]
fn programs_in_c_run() {
    for program in PROGRAMS {
        runs_silently(COMPILERS[0], program, &[]);
    }
}

#[test]
#[ignore = "takes a compiler of C++: ci/c.sh runs it"]
fn programs_in_cpp_run() {
    for program in PROGRAMS {
        runs_silently(COMPILERS[2], program, &[]);
    }
    runs_silently("c++ -std=c++17", "throwing.cpp", &[]);
}

#[test]
#[ignore = "takes a compiler of C++: ci/c.sh runs it"]
fn the_header_serves_other_standards_as_well() {
    for compiler in [COMPILERS[1], COMPILERS[3]] {
        Compiled::of(compiler, "spellings.c").unwrap();
        Compiled::of(compiler, "abi.c").unwrap();
    }
    let said = Compiled::of(COMPILERS[2], "two_arguments.c").unwrap_err();
    assert!(said.contains("kstate_start_transaction"), "{said}");
}

#[test]
fn programs_that_have_the_library_within_run() {
    // All that the library needs of others.
    let within = "cc -std=c11 :libkstate.a gcc_s util rt pthread m dl c";
    let compiled = Compiled::of(within, "spellings.c").unwrap();
    let daemon = Daemon::start();
    let mut command = compiled.command(&[]);
    command
        .env("KSTATE_MOUNT", daemon.mount())
        .env_remove("LD_LIBRARY_PATH");
    assert!(command.status().unwrap().success());
}

#[test]
#[ignore = "takes the sanitizers: ci/c.sh runs it"]
fn under_address_sanitizer_they_run_with_traps() {
    for compiler in [
        "cc -std=c11 -fsanitize=address,undefined",
        "c++ -xc++ -std=c++17 -fsanitize=address,undefined",
    ] {
        for program in &PROGRAMS[1..] {
            runs_silently(compiler, program, &[]);
        }
    }
}

/// It refuses userfaultfd, so that pages are copied when their address is asked for.
#[test]
#[ignore = "takes valgrind: ci/c.sh runs it"]
fn under_valgrind_they_run_without_traps() {
    let wrapper = [
        "valgrind",
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
    ];
    for program in &PROGRAMS[1..] {
        runs_silently(COMPILERS[0], program, &wrapper);
    }
}

#[test]
fn a_start_with_two_arguments_does_not_compile() {
    let source = c_sources().join("tests/two_arguments.c");
    assert!(source.exists());
    let said = Compiled::of(COMPILERS[0], "two_arguments.c").unwrap_err();
    assert!(said.contains("takes_one_or_three_arguments"), "{said}");
}

/// Words of a text that are names of functions here.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("kstate_"))
        .map(Into::into)
        .collect()
}

#[test]
fn what_is_exported_is_what_is_pinned_and_nothing_else() {
    let tests = c_sources().join("tests");
    let pinned: BTreeSet<String> = std::fs::read_to_string(tests.join("symbols.txt"))
        .unwrap()
        .lines()
        .map(Into::into)
        .collect();
    let nm = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(libkstate().join("libkstate.so"))
        .output()
        .unwrap();
    let table = String::from_utf8(nm.stdout).unwrap();
    let exported = table.lines().filter_map(|line| line.split(' ').next());
    let exported: BTreeSet<String> = exported.map(Into::into).collect();
    assert_eq!(
        exported, pinned,
        "{}",
        "a symbol that goes takes another soname; one that comes is to be pinned"
    );
    // The header has them all, and so have the names of the manual pages.
    let header = std::fs::read_to_string(c_sources().join("include/kstate.h")).unwrap();
    assert!(names(&header).is_superset(&pinned));
    let pages = std::fs::read_dir(c_sources().join("man")).unwrap();
    let mut described = BTreeSet::new();
    for page in pages {
        let page = page.unwrap().path();
        let text = std::fs::read_to_string(&page).unwrap();
        let (_, after) = text.split_once(".SH NAME\n").unwrap();
        let named = names(after.lines().next().unwrap());
        assert!(described.is_disjoint(&named), "{}", page.display());
        for name in named {
            // By the end of the page: it is told of, and not only named.
            assert!(
                after.matches(&name).count() >= 3,
                "{name} in {}",
                page.display()
            );
            described.insert(name);
        }
    }
    assert_eq!(described, pinned);
}

#[test]
fn the_library_is_found_by_its_version() {
    let output = Command::new("readelf")
        .arg("-d")
        .arg(libkstate().join("libkstate.so"))
        .output()
        .unwrap();
    let dynamic = String::from_utf8(output.stdout).unwrap();
    assert!(
        dynamic.contains("Library soname: [libkstate.so.0]"),
        "{dynamic}"
    );
}

#[test]
fn programs_run_with_nothing_set_up_and_bear_the_death_of_their_host() {
    let compiled = Compiled::of(COMPILERS[0], "hosted.c").unwrap();
    for by_call in [false, true] {
        let place = Place::new();
        let start = || {
            let mut program = compiled.command(&[]);
            place.prepare(&mut program);
            if by_call {
                program.env_remove("KSTATE_EMBED").arg("call");
            }
            Running::start(&mut program)
        };
        // All at once.
        let mut programs = [0; 4].map(|_| start());
        programs
            .iter_mut()
            .for_each(|program| program.lines_until("ready"));
        kill(place.host(), Signal::SIGKILL).unwrap();
        eventually("it is gone", || place.hosts().is_empty().then_some(()));
        programs.iter_mut().for_each(|program| program.say(""));
        programs
            .iter_mut()
            .for_each(|program| program.lines_until("done"));
        place.host();
        // One that ends otherwise than in order, and one that comes late.
        programs[0].signal(Signal::SIGKILL);
        let mut late = start();
        late.lines_until("ready");
        late.say("");
        late.lines_until("done");
        late.say("");
        assert!(late.finish().success());
        for program in &mut programs[1..] {
            program.say("");
            assert!(program.finish().success());
        }
    }
}
