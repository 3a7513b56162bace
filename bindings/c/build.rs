//! Names the shared library as programs look for it.

fn main() {
    // Changes with what a program that was linked before would miss: `include/kstate.h` and
    // `tests/symbols.txt` say what that is.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libkstate.so.0");
    println!("cargo:rerun-if-changed=build.rs");
}
