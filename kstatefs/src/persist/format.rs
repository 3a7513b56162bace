//! The bytes of a copy.
//!
//! A file has two areas of the same size, one behind the other, with a copy at the start of each. An
//! area is a block of 4096 bytes and a page of the machine that made the file: whatever the lengths of
//! name, layout and value, a copy fits, and no block holds bytes of both.
//!
//! All numbers are little-endian. A copy is a head, then name, text of the layout and value with
//! nothing between them, then zeros to the end of the block:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 8 | mark: `kstfile` and a byte that is not text |
//! | 8 | 4 | version of the format, [`FILE_VERSION`] |
//! | 12 | 4 | CRC-32C of bytes 0 to 11 and of 16 to the end of the value |
//! | 16 | 16 | id of the file: random, the same in both copies |
//! | 32 | 8 | sequence: one more with each attempt to save |
//! | 40 | 8 | generation |
//! | 48 | 8 | ceiling |
//! | 56 | 8 | id of the layout, 0 without one |
//! | 64 | 8, 8, 8, 8 | whole seconds of linger, deadline, within, commit time |
//! | 96 | 4, 4, 4, 4 | nanoseconds of the same |
//! | 112 | 4 | size of an area in bytes |
//! | 116 | 4 | which copy this is: 0 or 1 |
//! | 120 | 4 | flags: 1 clean, 2 layout, 4 deadline, 8 commit time |
//! | 124 | 4 | mode |
//! | 128 | 4 | uid |
//! | 132 | 4 | gid |
//! | 136 | 4 | capacity in bytes |
//! | 140 | 4 | sinks |
//! | 144 | 4, 4, 4 | length in bytes of name, text of the layout, value |
//! | 156 | 4 | zero |
//! | 160 | | name, text of the layout, value |
//!
//! Mark and version are where they are in every version to come. Without a deadline, commit time or
//! layout its fields are zero.

use std::io;
use std::time::Duration;

use kstate_sys::abi::PAGE_SIZE_RANGE;
use kstate_sys::ioctl::LAYOUT_TEXT_BYTES;
use kstate_sys::name::{MAX_NAME_BYTES, StateName};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::error::CopyError;
use super::image::Image;

/// Version of the format.
pub const FILE_VERSION: u32 = 1;

/// First eight bytes of a copy.
const MARK: [u8; 8] = *b"kstfile\xb5";

/// Copies share no block of this size, and are written in whole blocks.
pub(super) const BLOCK_BYTES: u32 = 4096;

/// Bytes of the head.
const HEAD_BYTES: usize = size_of::<Head>();

/// The greatest area: that of a machine with pages of 64 KiB.
pub(super) const MAX_AREA_BYTES: u32 = BLOCK_BYTES + *PAGE_SIZE_RANGE.end();

const CLEAN: u32 = 1;
const LAYOUT: u32 = 2;
const DEADLINE: u32 = 4;
const STAMPED: u32 = 8;

/// What a copy begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    mark: [u8; 8],
    version: U32,
    checksum: U32,
    file_id: [u8; 16],
    sequence: U64,
    generation: U64,
    ceiling: U64,
    layout_id: U64,
    seconds: [U64; 4],
    nanoseconds: [U32; 4],
    area: U32,
    index: U32,
    flags: U32,
    mode: U32,
    uid: U32,
    gid: U32,
    capacity: U32,
    sinks: U32,
    name_length: U32,
    text_length: U32,
    value_length: U32,
    reserved: U32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Head>() == 160);
    assert!(offset_of!(Head, version) == 8);
    assert!(offset_of!(Head, checksum) == 12);
    assert!(offset_of!(Head, file_id) == 16);
    assert!(offset_of!(Head, sequence) == 32);
    assert!(offset_of!(Head, generation) == 40);
    assert!(offset_of!(Head, ceiling) == 48);
    assert!(offset_of!(Head, layout_id) == 56);
    assert!(offset_of!(Head, seconds) == 64);
    assert!(offset_of!(Head, nanoseconds) == 96);
    assert!(offset_of!(Head, area) == 112);
    assert!(offset_of!(Head, index) == 116);
    assert!(offset_of!(Head, flags) == 120);
    assert!(offset_of!(Head, mode) == 124);
    assert!(offset_of!(Head, uid) == 128);
    assert!(offset_of!(Head, gid) == 132);
    assert!(offset_of!(Head, capacity) == 136);
    assert!(offset_of!(Head, sinks) == 140);
    assert!(offset_of!(Head, name_length) == 144);
    assert!(offset_of!(Head, text_length) == 148);
    assert!(offset_of!(Head, value_length) == 152);
    assert!(offset_of!(Head, reserved) == 156);
    // What is in an area beside the value fits the first block.
    assert!(size_of::<Head>() + MAX_NAME_BYTES + LAYOUT_TEXT_BYTES <= BLOCK_BYTES as usize);
};

/// A complete copy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copy {
    /// Id of the file it belongs to.
    pub file_id: [u8; 16],
    /// Which attempt to save it is of.
    pub sequence: u64,
    /// Size of an area of the file in bytes.
    pub area: u32,
    /// What was saved.
    pub image: Image,
}

/// The size of an area of a file made on a machine with pages of `page` bytes.
pub(super) const fn area_of_page(page: u32) -> u32 {
    BLOCK_BYTES + page
}

/// The page of the machine that made a file with areas of this size; `None` if no machine did.
pub(super) fn page_of_area(area: u32) -> Option<u32> {
    let page = area.checked_sub(area_of_page(0))?;
    (page.is_power_of_two() && PAGE_SIZE_RANGE.contains(&page)).then_some(page)
}

/// The bytes of copy number `index`, in whole blocks.
///
/// # Errors
///
/// A value beyond the file's page, or a layout's text beyond its bound.
pub(super) fn encode(
    image: &Image,
    file_id: [u8; 16],
    sequence: u64,
    area: u32,
    index: usize,
) -> io::Result<Vec<u8>> {
    let (layout_id, text) = match &image.layout {
        Some((id, text)) => (*id, text.as_str()),
        None => (0, ""),
    };
    let value_length = bounded(
        "value",
        &image.value,
        page_of_area(area).unwrap_or(0) as usize,
    )?;
    let text_length = bounded("layout", text.as_bytes(), LAYOUT_TEXT_BYTES)?;
    let name_length = bounded("name", image.name.as_str().as_bytes(), MAX_NAME_BYTES)?;
    let times = [
        image.linger,
        image.deadline.unwrap_or_default(),
        image.within,
        image.time.unwrap_or_default(),
    ];
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    let flags = flag(CLEAN, image.clean)
        | flag(LAYOUT, image.layout.is_some())
        | flag(DEADLINE, image.deadline.is_some())
        | flag(STAMPED, image.time.is_some());
    let mut head = Head {
        mark: MARK,
        version: FILE_VERSION.into(),
        checksum: 0.into(),
        file_id,
        sequence: sequence.into(),
        generation: image.generation.into(),
        ceiling: image.ceiling.into(),
        layout_id: layout_id.into(),
        seconds: times.map(|time| time.as_secs().into()),
        nanoseconds: times.map(|time| time.subsec_nanos().into()),
        area: area.into(),
        index: u32::from(index != 0).into(),
        flags: flags.into(),
        mode: image.mode.into(),
        uid: image.uid.into(),
        gid: image.gid.into(),
        capacity: image.capacity.into(),
        sinks: image.announce.into(),
        name_length: name_length.into(),
        text_length: text_length.into(),
        value_length: value_length.into(),
        reserved: 0.into(),
    };
    let content = [
        image.name.as_str().as_bytes(),
        text.as_bytes(),
        &image.value,
    ]
    .concat();
    head.checksum = checksum(&head, &content).into();
    let mut bytes = [head.as_bytes(), &content].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
    Ok(bytes)
}

/// What stands at the start of `bytes`, which begin where copy number `index` of a file does. No bytes
/// make it panic.
///
/// # Errors
///
/// Why it is no complete copy.
pub(super) fn decode(bytes: &[u8], index: usize) -> Result<Copy, CopyError> {
    if bytes.is_empty() {
        return Err(CopyError::Absent);
    }
    let Ok((head, rest)) = Head::read_from_prefix(bytes) else {
        return Err(CopyError::Mark);
    };
    if head.mark != MARK {
        return Err(CopyError::Mark);
    }
    let version = head.version.get();
    if version != FILE_VERSION {
        return Err(CopyError::Version { found: version });
    }
    let area = head.area.get();
    let page = page_of_area(area).ok_or(CopyError::Field { field: "size" })?;
    let mut rest = rest;
    let mut take = |field, length: U32, most: usize| {
        let found = length.get() as usize;
        // A file that was cut has less.
        let most = most.min(rest.len());
        if found > most {
            return Err(CopyError::TooLong { field, found, most });
        }
        let (part, behind) = rest.split_at(found);
        rest = behind;
        Ok(part)
    };
    let name = take("name", head.name_length, MAX_NAME_BYTES)?;
    let text = take("layout", head.text_length, LAYOUT_TEXT_BYTES)?;
    let value = take("value", head.value_length, page as usize)?;
    let content = &bytes[HEAD_BYTES..][..name.len() + text.len() + value.len()];
    let (found, computed) = (head.checksum.get(), checksum(&head, content));
    if found != computed {
        return Err(CopyError::Checksum { found, computed });
    }
    // From here on it is what some program wrote.
    if head.index.get() != u32::from(index != 0) {
        return Err(CopyError::Misplaced);
    }
    Ok(Copy {
        file_id: head.file_id,
        sequence: head.sequence.get(),
        area,
        image: image_of(&head, name, text, value)?,
    })
}

fn image_of(head: &Head, name: &[u8], text: &[u8], value: &[u8]) -> Result<Image, CopyError> {
    let field = |field| CopyError::Field { field };
    let flags = head.flags.get();
    if flags & !(CLEAN | LAYOUT | DEADLINE | STAMPED) != 0 || head.reserved.get() != 0 {
        return Err(field("flag"));
    }
    let has = |flag| flags & flag != 0;
    let time = |at: usize| {
        let (seconds, nanoseconds) = (head.seconds[at].get(), head.nanoseconds[at].get());
        (nanoseconds < 1_000_000_000)
            .then(|| Duration::new(seconds, nanoseconds))
            .ok_or(field("time"))
    };
    let [linger, deadline, within, stamp] = [time(0)?, time(1)?, time(2)?, time(3)?];
    let text = str::from_utf8(text).map_err(|_| field("layout"))?;
    Ok(Image {
        name: StateName::new(name).map_err(|_| field("name"))?,
        generation: head.generation.get(),
        ceiling: head.ceiling.get(),
        clean: has(CLEAN),
        mode: head.mode.get(),
        uid: head.uid.get(),
        gid: head.gid.get(),
        capacity: head.capacity.get(),
        layout: has(LAYOUT).then(|| (head.layout_id.get(), text.to_owned())),
        linger,
        deadline: has(DEADLINE).then_some(deadline),
        announce: head.sinks.get(),
        within,
        time: has(STAMPED).then_some(stamp),
        value: value.to_vec(),
    })
}

/// Over everything that counts: the head but for the checksum itself, and the content.
fn checksum(head: &Head, content: &[u8]) -> u32 {
    let head = head.as_bytes();
    let before = crc32c::crc32c(&head[..core::mem::offset_of!(Head, checksum)]);
    let behind = crc32c::crc32c_append(before, &head[core::mem::offset_of!(Head, file_id)..]);
    crc32c::crc32c_append(behind, content)
}

/// The length of `bytes`.
fn bounded(field: &str, bytes: &[u8], most: usize) -> io::Result<u32> {
    let length = bytes.len();
    match u32::try_from(length) {
        Ok(fits) if length <= most => Ok(fits),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "a {field} of {length} bytes was to be saved, and the state's file has room for \
                 {most}; make it anew"
            ),
        )),
    }
}

#[cfg(test)]
pub(super) mod tests;
