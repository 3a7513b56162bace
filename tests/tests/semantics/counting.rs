//! Processes that increment one counter lose nothing, from any language.

use std::os::unix::fs::FileExt;
use std::process::Command;

use kstate_tests::{Running, Setup};

use crate::{create, generation, python_with, value};

both_ways!(
    four_shells_counting_through_one_descriptor_each_lose_nothing,
    four_pythons_counting_through_one_descriptor_each_lose_nothing,
);

fn four_shells_counting_through_one_descriptor_each_lose_nothing(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "counter");
    keep.write_all_at(b"0\n", 0).unwrap();
    // Read a line, write the next: a loser gets ESTALE and opens again.
    let script = r#"
        i=0
        while [ $i -lt 25 ]; do
            exec 3<>"$1" || exit 1
            read x <&3
            if echo $((x + 1)) >&3; then i=$((i + 1)); fi
            exec 3<&-
        done 2>/dev/null
    "#;
    let shells = (0..4).map(|_| {
        let mut shell = Command::new("bash");
        shell.args(["-c", script, "count"]);
        Running::start(shell.arg(daemon.file("counter")))
    });
    for mut shell in shells.collect::<Vec<_>>() {
        assert!(shell.finish().success());
    }
    assert_eq!(value(&daemon, "counter"), b"100\n");
    assert_eq!(generation(&daemon, "counter"), 101);
}

fn four_pythons_counting_through_one_descriptor_each_lose_nothing(setup: Setup) {
    let daemon = setup.start();
    let keep = create(&daemon, "counter");
    keep.write_all_at(b"0\n", 0).unwrap();
    // One descriptor for all: read from the start, write where that has ended, and if somebody
    // was faster do both again.
    let program = "
file = open(path, 'r+b', buffering=0)
input()
for i in range(250):
    while True:
        file.seek(0)
        number = int(file.read(99))
        try: file.write(b'%d\\n' % (number + 1))
        except OSError as error:
            if error.errno != errno.ESTALE: raise
        else: break
";
    let start = || Running::start(&mut python_with(program, &daemon.file("counter")));
    let mut pythons: Vec<_> = (0..4).map(|_| start()).collect();
    for python in &mut pythons {
        python.say("");
    }
    for mut python in pythons {
        assert!(python.finish().success());
    }
    assert_eq!(value(&daemon, "counter"), b"1000\n");
    assert_eq!(generation(&daemon, "counter"), 1001);
}
