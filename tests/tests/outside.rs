//! A program outside the workspace that depends on the library by path builds and runs, with
//! nothing on the machine but Rust and a C linker.

use std::path::Path;
use std::process::Command;

use kstate_tests::Daemon;

#[test]
fn a_program_outside_the_workspace_builds_and_runs() {
    let daemon = Daemon::start();
    let library = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("kstate");
    let package = daemon.home().join("outside");
    std::fs::create_dir_all(package.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"outside\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n\
         [dependencies]\nkstate = {{ path = {library:?} }}\n"
    );
    std::fs::write(package.join("Cargo.toml"), manifest).unwrap();
    let program = r#"
        kstate::layout! {
            pub struct Gps { pub lat: f64, pub lon: f64 }
        }

        fn main() -> Result<(), kstate::Error> {
            let gps = kstate::subscribe("gps").write().typed::<Gps>()?;
            gps.publish(&Gps { lat: 52.2, lon: 0.1 })?;
            println!("{}", gps.snapshot()?.value.lat);
            Ok(())
        }
    "#;
    std::fs::write(package.join("src/main.rs"), program).unwrap();
    // The versions that the workspace was tested with, so that the build needs no newer ones.
    let lock = library.parent().unwrap().join("Cargo.lock");
    std::fs::copy(lock, package.join("Cargo.lock")).unwrap();
    let build = |command: &str| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.arg(command).arg("--quiet").current_dir(&package);
        cargo.env("CARGO_TARGET_DIR", package.join("target"));
        cargo.env("KSTATE_MOUNT", daemon.mount());
        // No libclang can be found, even where there is one.
        cargo.env("LIBCLANG_PATH", "/nonexistent");
        cargo.output().unwrap()
    };
    let output = build("run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "52.2\n");
    let tree = build("tree");
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    for unwanted in ["bindgen", "clang-sys", "fuser", "clap"] {
        assert!(
            !tree.contains(unwanted),
            "a user of the library gets {unwanted}:\n{tree}"
        );
    }
}
