//! Compares every constant and layout of this crate with the kernel's own headers.
//!
//! The first witness is the installed header, asked by a C program that `cc` compiles. What that
//! header is too old to know is compared with linux-raw-sys, made from a later kernel's headers,
//! and, for the few macros that it lacks as well, with the value the manual pages document. Each
//! name must have been confirmed by a witness that knows it.

use super::*;
use crate::pagemap::{self, PageRegion, pm_scan_arg};
use linux_raw_sys::general as later;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::process::Command;

/// A thing to compare: its name, the C expression for it, the macro without which the header does
/// not know it, our value, and what a later header or the manual says, where either does.
struct Item {
    name: String,
    expression: String,
    guard: String,
    ours: u64,
    later: Option<u64>,
}

/// Constants that linux-raw-sys knows too.
macro_rules! constants {
    ($from:path: $($name:ident)+) => {{
        use $from as ours;
        vec![$(Item {
            name: stringify!($name).into(),
            expression: stringify!($name).into(),
            guard: stringify!($name).into(),
            ours: u64::try_from(ours::$name).unwrap(),
            later: Some(u64::from(later::$name)),
        }),+]
    }};
}

/// Constants that only the installed header has, with the documented value where it may be too old.
fn constant(name: &str, ours: u64, documented: Option<u64>) -> Item {
    Item {
        name: name.into(),
        expression: name.into(),
        guard: name.into(),
        ours,
        later: documented,
    }
}

/// A structure's size and offsets. `$guard` is a macro as old as the structure.
macro_rules! layout {
    ($ours:ty = $c:ident ($guard:ident): $($field:ident = $c_field:ident / $later_field:ident),+) => {{
        let mut items = vec![Item {
            name: concat!("sizeof ", stringify!($c)).into(),
            expression: concat!("sizeof(struct ", stringify!($c), ")").into(),
            guard: stringify!($guard).into(),
            ours: size_of::<$ours>() as u64,
            later: Some(size_of::<later::$c>() as u64),
        }];
        $(items.push(Item {
            name: concat!(stringify!($c), ".", stringify!($c_field)).into(),
            expression: format!(
                "offsetof(struct {}, {})", stringify!($c), stringify!($c_field)
            ),
            guard: stringify!($guard).into(),
            ours: offset_of!($ours, $field) as u64,
            later: Some(offset_of!(later::$c, $later_field) as u64),
        });)+
        items
    }};
}

fn ioctl_number(name: &str, ours: u64, later_size: usize, ty: u8, nr: u8) -> Item {
    // linux-raw-sys has no numbers for the newest ioctls, but the structures they are made from.
    constant(name, ours, Some(ioc(_IOC_READ_WRITE, ty, nr, later_size)))
}

fn items() -> Vec<Item> {
    let mut items = constants!(crate::raw:
        UFFD_API UFFD_USER_MODE_ONLY
        UFFD_FEATURE_PAGEFAULT_FLAG_WP UFFD_FEATURE_EVENT_FORK UFFD_FEATURE_EVENT_REMAP
        UFFD_FEATURE_EVENT_REMOVE UFFD_FEATURE_MISSING_HUGETLBFS UFFD_FEATURE_MISSING_SHMEM
        UFFD_FEATURE_EVENT_UNMAP UFFD_FEATURE_SIGBUS UFFD_FEATURE_THREAD_ID
        UFFD_FEATURE_MINOR_HUGETLBFS UFFD_FEATURE_MINOR_SHMEM UFFD_FEATURE_EXACT_ADDRESS
        UFFD_FEATURE_WP_HUGETLBFS_SHMEM UFFD_FEATURE_WP_UNPOPULATED UFFD_FEATURE_POISON
        UFFD_FEATURE_WP_ASYNC UFFD_FEATURE_MOVE
        _UFFDIO_REGISTER _UFFDIO_UNREGISTER _UFFDIO_WAKE _UFFDIO_COPY _UFFDIO_ZEROPAGE _UFFDIO_MOVE
        _UFFDIO_WRITEPROTECT _UFFDIO_CONTINUE _UFFDIO_POISON _UFFDIO_API
        UFFDIO_REGISTER_MODE_MISSING UFFDIO_REGISTER_MODE_WP UFFDIO_REGISTER_MODE_MINOR
        UFFDIO_COPY_MODE_DONTWAKE UFFDIO_COPY_MODE_WP UFFDIO_ZEROPAGE_MODE_DONTWAKE
        UFFD_EVENT_PAGEFAULT UFFD_EVENT_FORK UFFD_EVENT_REMAP UFFD_EVENT_REMOVE UFFD_EVENT_UNMAP
        UFFD_PAGEFAULT_FLAG_WRITE UFFD_PAGEFAULT_FLAG_WP UFFD_PAGEFAULT_FLAG_MINOR);
    items.extend(constants!(crate::pagemap:
        PAGE_IS_WPALLOWED PAGE_IS_WRITTEN PAGE_IS_FILE PAGE_IS_PRESENT PAGE_IS_SWAPPED
        PAGE_IS_PFNZERO PAGE_IS_HUGE PAGE_IS_SOFT_DIRTY PM_SCAN_WP_MATCHING PM_SCAN_CHECK_WPASYNC));
    items.extend([
        constant(
            "UFFDIO_WRITEPROTECT_MODE_WP",
            UFFDIO_WRITEPROTECT_MODE_WP,
            None,
        ),
        constant(
            "UFFDIO_WRITEPROTECT_MODE_DONTWAKE",
            UFFDIO_WRITEPROTECT_MODE_DONTWAKE,
            None,
        ),
        constant(
            "UFFDIO_CONTINUE_MODE_DONTWAKE",
            UFFDIO_CONTINUE_MODE_DONTWAKE,
            None,
        ),
        // UFFDIO_CONTINUE(2const).
        constant("UFFDIO_CONTINUE_MODE_WP", UFFDIO_CONTINUE_MODE_WP, Some(2)),
        // ioctl_userfaultfd(2), UFFDIO_POISON(2const) and UFFDIO_MOVE(2const).
        constant(
            "UFFDIO_POISON_MODE_DONTWAKE",
            UFFDIO_POISON_MODE_DONTWAKE,
            Some(1),
        ),
        constant(
            "UFFDIO_MOVE_MODE_DONTWAKE",
            UFFDIO_MOVE_MODE_DONTWAKE,
            Some(1),
        ),
        constant(
            "USERFAULTFD_IOC_NEW",
            nix::request_code_none!(UFFDIO, 0x00),
            Some(0xAA00),
        ),
        constant("UFFDIO_API", 0xC018_AA3F, None),
        constant("UFFDIO_REGISTER", 0xC020_AA00, None),
        constant("UFFDIO_UNREGISTER", 0x8010_AA01, None),
        constant("UFFDIO_WAKE", 0x8010_AA02, None),
        constant("UFFDIO_COPY", 0xC028_AA03, None),
        constant("UFFDIO_ZEROPAGE", 0xC020_AA04, None),
        constant("UFFDIO_WRITEPROTECT", 0xC018_AA06, None),
        constant("UFFDIO_CONTINUE", 0xC020_AA07, None),
        ioctl_number(
            "UFFDIO_MOVE",
            0xC028_AA05,
            size_of::<later::uffdio_move>(),
            UFFDIO,
            5,
        ),
        ioctl_number(
            "UFFDIO_POISON",
            0xC020_AA08,
            size_of::<later::uffdio_poison>(),
            UFFDIO,
            8,
        ),
        ioctl_number(
            "PAGEMAP_SCAN",
            pagemap::PAGEMAP_SCAN,
            size_of::<later::pm_scan_arg>(),
            b'f',
            16,
        ),
    ]);
    items.extend(layout!(uffdio_api = uffdio_api (UFFDIO_API):
        api = api / api, features = features / features, ioctls = ioctls / ioctls));
    items.extend(layout!(uffdio_range = uffdio_range (UFFDIO_WAKE):
        start = start / start, len = len / len));
    items.extend(layout!(uffdio_register = uffdio_register (UFFDIO_REGISTER):
        range = range / range, mode = mode / mode, ioctls = ioctls / ioctls));
    items.extend(layout!(uffdio_copy = uffdio_copy (UFFDIO_COPY):
        dst = dst / dst, src = src / src, len = len / len, mode = mode / mode, copy = copy / copy));
    items.extend(layout!(uffdio_zeropage = uffdio_zeropage (UFFDIO_ZEROPAGE):
        range = range / range, mode = mode / mode, zeropage = zeropage / zeropage));
    items.extend(
        layout!(uffdio_writeprotect = uffdio_writeprotect (UFFDIO_WRITEPROTECT):
        range = range / range, mode = mode / mode),
    );
    items.extend(layout!(uffdio_continue = uffdio_continue (UFFDIO_CONTINUE):
        range = range / range, mode = mode / mode, mapped = mapped / mapped));
    items.extend(layout!(uffdio_poison = uffdio_poison (UFFDIO_POISON):
        range = range / range, mode = mode / mode, updated = updated / updated));
    items.extend(layout!(uffdio_move = uffdio_move (UFFDIO_MOVE):
        dst = dst / dst, src = src / src, len = len / len, mode = mode / mode,
        moved = move / move_));
    items.extend(layout!(uffd_msg = uffd_msg (UFFD_EVENT_PAGEFAULT):
        event = event / event, reserved1 = reserved1 / reserved1,
        reserved2 = reserved2 / reserved2, reserved3 = reserved3 / reserved3, arg = arg / arg));
    items.extend(layout!(pm_scan_arg = pm_scan_arg (PAGEMAP_SCAN):
        size = size / size, flags = flags / flags, start = start / start, end = end / end,
        walk_end = walk_end / walk_end, vec = vec / vec, vec_len = vec_len / vec_len,
        max_pages = max_pages / max_pages, category_inverted = category_inverted / category_inverted,
        category_mask = category_mask / category_mask,
        category_anyof_mask = category_anyof_mask / category_anyof_mask,
        return_mask = return_mask / return_mask));
    items.extend(layout!(PageRegion = page_region (PAGEMAP_SCAN):
        start = start / start, end = end / end, categories = categories / categories));
    // The members of the message's union, which event.rs takes apart as words of `arg`.
    for (member, offset) in [
        ("pagefault.flags", 8),
        ("pagefault.address", 16),
        ("pagefault.feat.ptid", 24),
        ("fork.ufd", 8),
        ("remap.from", 8),
        ("remap.to", 16),
        ("remap.len", 24),
        ("remove.start", 8),
        ("remove.end", 16),
    ] {
        items.push(Item {
            name: format!("uffd_msg.arg.{member}"),
            expression: format!("offsetof(struct uffd_msg, arg.{member})"),
            guard: "UFFD_EVENT_PAGEFAULT".into(),
            ours: offset,
            later: None,
        });
    }
    items
}

/// Asks the installed header for every item: its value, or `None` where it knows no such thing.
fn ask_the_header(label: &str, items: &[Item]) -> BTreeMap<String, Option<u64>> {
    let mut source = String::from(
        "#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n\
         #include <linux/fs.h>\n#include <linux/userfaultfd.h>\nint main(void) {\n",
    );
    for Item {
        name,
        expression,
        guard,
        ..
    } in items
    {
        source += &format!(
            "#ifdef {guard}\nprintf(\"{name}=%llu\\n\", (unsigned long long)({expression}));\n\
             #else\nprintf(\"{name}=unknown\\n\");\n#endif\n"
        );
    }
    source += "return 0; }\n";

    let stem = std::env::temp_dir().join(format!("uffd-{label}-{}", std::process::id()));
    let program = stem.with_extension("out");
    let file = stem.with_extension("c");
    std::fs::write(&file, source).unwrap();
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let compiled = Command::new(&cc)
        .arg("-o")
        .arg(&program)
        .arg(&file)
        .output();
    let compiled = compiled.unwrap_or_else(|error| panic!("this test needs a C compiler: {error}"));
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let ran = Command::new(&program).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(&program).unwrap();
    assert!(ran.status.success());
    String::from_utf8(ran.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap();
            (name.to_owned(), value.parse().ok())
        })
        .collect()
}

#[test]
fn constants_and_layouts_are_the_kernels() {
    let items = items();
    let header = ask_the_header("all", &items);
    let (mut by_header, mut by_later, mut too_new) = (0, 0, Vec::new());
    for Item {
        name, ours, later, ..
    } in &items
    {
        let header = header
            .get(name)
            .copied()
            .unwrap_or_else(|| panic!("{name} was not asked"));
        if let Some(theirs) = header {
            assert_eq!(*ours, theirs, "{name}: the installed header disagrees");
            by_header += 1;
        } else {
            too_new.push(name.as_str());
        }
        if let Some(theirs) = later {
            assert_eq!(
                ours, theirs,
                "{name}: the later header or the manual disagrees"
            );
            by_later += 1;
        }
        assert!(
            header.is_some() || later.is_some(),
            "{name}: no witness knows it"
        );
    }
    println!("{by_header} confirmed by the installed header, {by_later} by the second witness");
    println!("too new for the installed header: {too_new:?}");
    // Everything up to Linux 5.15, the oldest kernel we run on, is in any header we build with.
    assert!(
        by_header >= 80,
        "the installed header confirmed only {by_header} of {}",
        items.len()
    );
}

#[test]
fn a_wrong_value_would_be_noticed() {
    let mut wrong = constant("UFFDIO_API", 0xC018_AA3E, None);
    wrong.name = "wrong".into();
    let header = ask_the_header("wrong", std::slice::from_ref(&wrong));
    assert_eq!(header["wrong"], Some(0xC018_AA3F));
    assert_ne!(header["wrong"], Some(wrong.ours));
    let absent = constant("UFFDIO_NO_SUCH_THING", 0, None);
    assert_eq!(
        ask_the_header("absent", &[absent])["UFFDIO_NO_SUCH_THING"],
        None
    );
}
