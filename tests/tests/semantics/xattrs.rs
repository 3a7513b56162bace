//! Extended attributes: what is known of a state.

use std::os::unix::fs::FileExt;

use kstate_tests::Setup;

use crate::{create, generation, in_control, python};

both_ways!(
    what_is_known_of_a_state_can_be_read_as_attributes,
    every_attribute_that_has_a_value_is_listed,
    an_attribute_needs_room_and_tells_how_much,
    only_linger_and_capacity_can_be_set,
    attributes_are_made_and_replaced_as_the_flags_say,
    no_other_attribute_can_be_made_or_removed,
    directories_and_the_registry_have_no_attributes,
);

fn what_is_known_of_a_state_can_be_read_as_attributes(setup: Setup) {
    let daemon = setup.start();
    let file = create(&daemon, "x");
    file.write_all_at(b"12345", 0).unwrap();
    file.write_all_at(b"6", 5).unwrap();
    let program = "
for name in 'generation', 'length', 'capacity', 'subscribers', 'linger', 'waiters':
    print(name, os.getxattr(path, 'user.kstate.' + name).decode())
file = os.open(path, os.O_RDONLY)
print('subscribers', os.getxattr(file, 'user.kstate.subscribers').decode())
print(int(os.getxattr(file, 'user.kstate.age_ns')) > 0)
";
    let page = kstate_sys::abi::page_size();
    let expected = format!(
        "generation 2\nlength 6\ncapacity {page}\nsubscribers 1\nlinger 0ms\nwaiters 0\n\
         subscribers 2\nTrue\n"
    );
    assert_eq!(python(program, &daemon.file("x")), expected);
}

kstate::layout! {
    /// Something that has a layout.
    struct Position { x: f64, y: f64 }
}

fn every_attribute_that_has_a_value_is_listed(setup: Setup) {
    let daemon = setup.start();
    let _file = create(&daemon, "x");
    let program = "
names = os.listxattr(path)
print(*[name.removeprefix('user.kstate.') for name in names])
assert all(os.getxattr(path, name) for name in names)
for name in 'age_ns', 'layout', 'none':
    if 'user.kstate.' + name not in names:
        print(name, said(lambda: os.getxattr(path, 'user.kstate.' + name)))
print(said(lambda: os.getxattr(path, 'user.other')))
";
    let always = "capacity generation";
    let counted = "linger overdue subscribers waiters writers";
    let expected = format!(
        "{always} length {counted}\nage_ns ENODATA\nlayout ENODATA\nnone ENODATA\nENODATA\n"
    );
    assert_eq!(python(program, &daemon.file("x")), expected);
    let library = daemon.library();
    let state = library.subscribe("x").write().typed::<Position>().unwrap();
    state.publish(&Position { x: 1.0, y: 2.0 }).unwrap();
    let expected = format!("age_ns {always} layout length {counted}\nnone ENODATA\nENODATA\n");
    assert_eq!(python(program, &daemon.file("x")), expected);
}

fn an_attribute_needs_room_and_tells_how_much(setup: Setup) {
    let daemon = setup.start();
    let _file = create(&daemon, "x");
    let program = "
file = path.encode()
def get(size):
    room = ctypes.create_string_buffer(size) if size else None
    length = call('getxattr', file, b'user.kstate.linger', room, ctypes.c_size_t(size))
    return (length, room and room.raw[:length])
for size in 0, 2, 3, 99: print(said(lambda: get(size)))
def names(size):
    room = ctypes.create_string_buffer(size) if size else None
    return call('listxattr', file, room, ctypes.c_size_t(size))
length = names(0)
print(said(lambda: names(length - 1)), names(length) == length, names(65536) == length)
";
    let expected = "(3, None)\nERANGE\n(3, b'0ms')\n(3, b'0ms')\nERANGE True True\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
}

fn only_linger_and_capacity_can_be_set(setup: Setup) {
    let daemon = setup.start();
    let _file = create(&daemon, "x");
    let program = "
def set(name, value, flags=0, file=path):
    print(name, said(lambda: os.setxattr(file, 'user.kstate.' + name, value, flags)))
def get(name): print(os.getxattr(path, 'user.kstate.' + name).decode())
set('linger', b'2s')
get('linger')
set('linger', b' 250ms\\n', os.XATTR_REPLACE)
get('linger')
set('linger', b'7', file=os.open(path, os.O_RDONLY))
get('linger')
set('linger', b'soon')
set('linger', b'')
set('capacity', b'100')
get('capacity')
set('capacity', b'much')
set('capacity', b'1000000')
set('generation', b'1')
set('layout', b'1')
set('none', b'1')
get('capacity')
";
    let expected = "linger None\n2000ms\nlinger None\n250ms\nlinger None\n7ms\nlinger EINVAL\n\
                    linger EINVAL\ncapacity None\n100\ncapacity EINVAL\ncapacity EFBIG\n\
                    generation EPERM\nlayout EPERM\nnone ENOTSUP\n100\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
    assert_eq!(generation(&daemon, "x"), 0);
}

fn attributes_are_made_and_replaced_as_the_flags_say(setup: Setup) {
    let daemon = setup.start();
    let _file = create(&daemon, "x");
    let program = "
def set(name, value, flags):
    print(said(lambda: os.setxattr(path, 'user.kstate.' + name, value, flags)))
set('linger', b'1s', os.XATTR_CREATE)
set('linger', b'1s', os.XATTR_REPLACE)
set('deadline', b'1s', os.XATTR_REPLACE)
set('deadline', b'1s', os.XATTR_CREATE)
set('deadline', b'1s', os.XATTR_CREATE)
print(said(lambda: os.removexattr(path, 'user.kstate.deadline')))
print(said(lambda: os.removexattr(path, 'user.kstate.deadline')))
";
    let expected = "EEXIST\nNone\nENODATA\nNone\nEEXIST\nNone\nENODATA\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
}

fn no_other_attribute_can_be_made_or_removed(setup: Setup) {
    let daemon = setup.start();
    let _file = create(&daemon, "x");
    let program = "
for flags in 0, os.XATTR_CREATE, os.XATTR_REPLACE:
    print(said(lambda: os.setxattr(path, 'user.other', b'1', flags)))
print(said(lambda: os.removexattr(path, 'user.kstate.linger')))
print(said(lambda: os.removexattr(path, 'user.kstate.generation')))
print(said(lambda: os.removexattr(path, 'user.other')))
print(os.getxattr(path, 'user.kstate.linger').decode())
";
    let expected = "ENOTSUP\nENOTSUP\nENOTSUP\nEPERM\nEPERM\nENODATA\n0ms\n";
    assert_eq!(python(program, &daemon.file("x")), expected);
}

fn directories_and_the_registry_have_no_attributes(setup: Setup) {
    let daemon = setup.start();
    let program = "
print(os.listxattr(path))
print(said(lambda: os.getxattr(path, 'user.kstate.generation')))
print(said(lambda: os.setxattr(path, 'user.kstate.linger', b'1s')))
";
    let set = in_control("ENOTSUP");
    for (name, set) in [("", "ENOTSUP"), (".kstate", set), (".kstate/registry", set)] {
        let printed = python(program, &daemon.file(name));
        assert_eq!(printed, format!("[]\nENODATA\n{set}\n"), "{name}");
    }
}
