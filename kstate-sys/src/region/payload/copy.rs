//! Copies that may race: by instructions that the compiler does not look into.

/// As [`copy`], to memory that nobody else sees; from 1024 bytes on by a string move, where that is quick. Only the loads are hidden from the compiler:
/// short values come in registers, so that it can keep them there or put them where they are
/// wanted in the end.
///
/// # Safety
///
/// As [`copy`]; the destination is private to the caller.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn fetch(to: *mut u8, from: *const u8, len: usize) {
    use core::arch::asm;
    use core::arch::x86_64::__m128i;
    match len {
        8 => {
            let a: u64;
            // SAFETY: the caller's promise.
            unsafe {
                asm!("mov {a}, [{from}]", from = in(reg) from, a = out(reg) a,
                    options(nostack, preserves_flags));
            }
            // SAFETY: the caller's promise.
            unsafe { put(to, 0, a) };
        }
        4 => {
            let a: u32;
            // SAFETY: the caller's promise.
            unsafe {
                asm!("mov {a:e}, [{from}]", from = in(reg) from, a = out(reg) a,
                    options(nostack, preserves_flags));
            }
            // SAFETY: the caller's promise.
            unsafe { put(to, 0, a) };
        }
        // The commonest length needs no register for the length.
        64 => {
            let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + 16]",
                    "movups {c}, [{from} + 32]",
                    "movups {d}, [{from} + 48]",
                    from = in(reg) from,
                    a = out(xmm_reg) a, b = out(xmm_reg) b,
                    c = out(xmm_reg) c, d = out(xmm_reg) d,
                    options(nostack, preserves_flags)
                );
            }
            for (at, block) in [(0, a), (16, b), (32, c), (48, d)] {
                // SAFETY: the caller's promise.
                unsafe { put(to, at, block) };
            }
        }
        16..=32 => {
            let (a, b): (__m128i, __m128i);
            // SAFETY: the caller's promise; two blocks of 16 that cover 16 to 32 bytes.
            unsafe {
                asm!(
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + {len} - 16]",
                    from = in(reg) from, len = in(reg) len,
                    a = out(xmm_reg) a, b = out(xmm_reg) b,
                    options(nostack, preserves_flags)
                );
            }
            // SAFETY: the caller's promise.
            unsafe { put(to, 0, a) };
            // SAFETY: as above.
            unsafe { put(to, len - 16, b) };
        }
        33..=64 => {
            let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
            // SAFETY: the caller's promise; four blocks of 16 that cover 32 to 64 bytes.
            unsafe {
                asm!(
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + 16]",
                    "movups {c}, [{from} + {len} - 32]",
                    "movups {d}, [{from} + {len} - 16]",
                    from = in(reg) from, len = in(reg) len,
                    a = out(xmm_reg) a, b = out(xmm_reg) b,
                    c = out(xmm_reg) c, d = out(xmm_reg) d,
                    options(nostack, preserves_flags)
                );
            }
            for (at, block) in [(0, a), (16, b), (len - 32, c), (len - 16, d)] {
                // SAFETY: the caller's promise.
                unsafe { put(to, at, block) };
            }
        }
        // Of whole cache lines the processor's own copy is the quickest, once it has begun, where it is known to be quick.
        1024.. if std::arch::is_x86_feature_detected!("ermsb") => {
            // SAFETY: the caller's promise; the direction flag is clear, as between any two functions.
            unsafe {
                asm!(
                    "rep movsb",
                    inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
                    options(nostack, preserves_flags)
                );
            }
        }
        // SAFETY: the caller's promise, and the processor has the feature.
        256.. if std::arch::is_x86_feature_detected!("avx") => unsafe {
            fetch_wide(to, from, len);
        },
        // SAFETY: the caller's promise.
        _ => unsafe { copy(to, from, len) },
    }
}

/// Writes `block` to private memory, `at` bytes behind `to`.
///
/// # Safety
///
/// There is room for it.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
unsafe fn put<B>(to: *mut u8, at: usize, block: B) {
    // SAFETY: the caller's promise.
    let place = unsafe { to.add(at) };
    // SAFETY: the caller's promise.
    unsafe { place.cast::<B>().write_unaligned(block) };
}

/// As [`fetch`] for 128 bytes and more, with 32-byte moves.
///
/// # Safety
///
/// As [`fetch`]; the processor has AVX and `len` is at least 128.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
unsafe fn fetch_wide(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { fetch_block(to, from, 0) };
    // Behind the first block stores are aligned: one that meets two cache lines costs as much as two.
    let mut at = 128 - to.addr() % 32;
    while at + 128 < len {
        // SAFETY: 128 bytes and more are left.
        unsafe { fetch_block(to, from, at) };
        at += 128;
    }
    // It overlaps the one before it where the length is no multiple.
    // SAFETY: the caller's promise: there are 128 bytes.
    unsafe { fetch_block(to, from, len - 128) };
}

/// Fetches the 128 bytes that begin `at` bytes behind `from`.
///
/// # Safety
///
/// As [`fetch`], of these; the processor has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
unsafe fn fetch_block(to: *mut u8, from: *const u8, at: usize) {
    use core::arch::asm;
    use core::arch::x86_64::__m256i;
    let (a, b, c, d): (__m256i, __m256i, __m256i, __m256i);
    // SAFETY: the caller's promise.
    let block = unsafe { from.add(at) };
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "vmovdqu {a}, [{from}]",
            "vmovdqu {b}, [{from} + 32]",
            "vmovdqu {c}, [{from} + 64]",
            "vmovdqu {d}, [{from} + 96]",
            from = in(reg) block,
            a = out(ymm_reg) a, b = out(ymm_reg) b,
            c = out(ymm_reg) c, d = out(ymm_reg) d,
            options(nostack, preserves_flags)
        );
    }
    for (offset, part) in [(0, a), (32, b), (64, c), (96, d)] {
        // SAFETY: the caller's promise.
        unsafe { put(to, at + offset, part) };
    }
}

/// As [`copy`].
///
/// # Safety
///
/// As [`copy`].
#[inline]
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn fetch(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { copy(to, from, len) }
}

/// Copies `len` bytes, either side of which may be changing.
///
/// # Safety
///
/// Both ranges are mapped, the destination writable, and they do not overlap.
///
/// # Cost
///
/// That of `memcpy`: four blocks of 16 bytes for 64, the processor's 32-byte moves above 256.
#[inline]
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    use core::arch::asm;
    match len {
        0 => {}
        // Two blocks, overlapping where the length is between two sizes.
        1..=3 => {
            // SAFETY: the caller's promise; the last byte is at len - 1, the middle at len / 2.
            unsafe {
                asm!(
                    "movzx {a:e}, byte ptr [{from}]",
                    "movzx {b:e}, byte ptr [{from} + {mid}]",
                    "movzx {c:e}, byte ptr [{from} + {last}]",
                    "mov byte ptr [{to}], {a:l}",
                    "mov byte ptr [{to} + {mid}], {b:l}",
                    "mov byte ptr [{to} + {last}], {c:l}",
                    from = in(reg) from, to = in(reg) to,
                    mid = in(reg) len / 2, last = in(reg) len - 1,
                    a = out(reg_abcd) _, b = out(reg_abcd) _, c = out(reg_abcd) _,
                    options(nostack, preserves_flags)
                );
            }
        }
        4..=7 => {
            // SAFETY: the caller's promise; two words of 4 that cover 4 to 8 bytes.
            unsafe {
                asm!(
                    "mov {a:e}, [{from}]",
                    "mov {b:e}, [{from} + {len} - 4]",
                    "mov [{to}], {a:e}",
                    "mov [{to} + {len} - 4], {b:e}",
                    from = in(reg) from, to = in(reg) to, len = in(reg) len,
                    a = out(reg) _, b = out(reg) _,
                    options(nostack, preserves_flags)
                );
            }
        }
        // The commonest lengths need no register for the length.
        8 => {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "mov {a}, [{from}]",
                    "mov [{to}], {a}",
                    from = in(reg) from, to = in(reg) to, a = out(reg) _,
                    options(nostack, preserves_flags)
                );
            }
        }
        9..=15 => {
            // SAFETY: the caller's promise; two words of 8 that cover 8 to 16 bytes.
            unsafe {
                asm!(
                    "mov {a}, [{from}]",
                    "mov {b}, [{from} + {len} - 8]",
                    "mov [{to}], {a}",
                    "mov [{to} + {len} - 8], {b}",
                    from = in(reg) from, to = in(reg) to, len = in(reg) len,
                    a = out(reg) _, b = out(reg) _,
                    options(nostack, preserves_flags)
                );
            }
        }
        16..=32 => {
            // SAFETY: the caller's promise; two blocks of 16 that cover 16 to 32 bytes.
            unsafe {
                asm!(
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + {len} - 16]",
                    "movups [{to}], {a}",
                    "movups [{to} + {len} - 16], {b}",
                    from = in(reg) from, to = in(reg) to, len = in(reg) len,
                    a = out(xmm_reg) _, b = out(xmm_reg) _,
                    options(nostack, preserves_flags)
                );
            }
        }
        // A cache line in words: whoever has just written a word of it would have wider loads
        // wait until that has left the store buffer.
        64 => {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(
                    "mov {a}, [{from}]",
                    "mov {b}, [{from} + 8]",
                    "mov {c}, [{from} + 16]",
                    "mov {d}, [{from} + 24]",
                    "mov [{to}], {a}",
                    "mov [{to} + 8], {b}",
                    "mov [{to} + 16], {c}",
                    "mov [{to} + 24], {d}",
                    "mov {a}, [{from} + 32]",
                    "mov {b}, [{from} + 40]",
                    "mov {c}, [{from} + 48]",
                    "mov {d}, [{from} + 56]",
                    "mov [{to} + 32], {a}",
                    "mov [{to} + 40], {b}",
                    "mov [{to} + 48], {c}",
                    "mov [{to} + 56], {d}",
                    from = in(reg) from, to = in(reg) to,
                    a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                    options(nostack, preserves_flags)
                );
            }
        }
        33..=64 => {
            // SAFETY: the caller's promise; four blocks of 16 that cover 32 to 64 bytes.
            unsafe {
                asm!(
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + 16]",
                    "movups {c}, [{from} + {len} - 32]",
                    "movups {d}, [{from} + {len} - 16]",
                    "movups [{to}], {a}",
                    "movups [{to} + 16], {b}",
                    "movups [{to} + {len} - 32], {c}",
                    "movups [{to} + {len} - 16], {d}",
                    from = in(reg) from, to = in(reg) to, len = in(reg) len,
                    a = out(xmm_reg) _, b = out(xmm_reg) _,
                    c = out(xmm_reg) _, d = out(xmm_reg) _,
                    options(nostack, preserves_flags)
                );
            }
        }
        // SAFETY: the caller's promise, and more than 64 bytes.
        _ if len >= 256 && std::arch::is_x86_feature_detected!("avx") => unsafe {
            copy_wide(to, from, len);
        },
        _ => {
            // SAFETY: the caller's promise. Whole blocks of 64 from the start, then the last 64
            // bytes, which overlap them where the length is no multiple.
            unsafe {
                asm!(
                    "2:",
                    "movups {a}, [{from}]",
                    "movups {b}, [{from} + 16]",
                    "movups {c}, [{from} + 32]",
                    "movups {d}, [{from} + 48]",
                    "movups [{to}], {a}",
                    "movups [{to} + 16], {b}",
                    "movups [{to} + 32], {c}",
                    "movups [{to} + 48], {d}",
                    "add {from}, 64",
                    "add {to}, 64",
                    "sub {left}, 64",
                    "ja 2b",
                    "movups {a}, [{from} + {left}]",
                    "movups {b}, [{from} + {left} + 16]",
                    "movups {c}, [{from} + {left} + 32]",
                    "movups {d}, [{from} + {left} + 48]",
                    "movups [{to} + {left}], {a}",
                    "movups [{to} + {left} + 16], {b}",
                    "movups [{to} + {left} + 32], {c}",
                    "movups [{to} + {left} + 48], {d}",
                    from = inout(reg) from => _, to = inout(reg) to => _,
                    left = inout(reg) len - 64 => _,
                    a = out(xmm_reg) _, b = out(xmm_reg) _,
                    c = out(xmm_reg) _, d = out(xmm_reg) _,
                    options(nostack)
                );
            }
        }
    }
}

/// As [`copy`] for 128 bytes and more, with 32-byte moves.
///
/// # Safety
///
/// As [`copy`]; the processor has AVX and `len` is at least 128.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn copy_wide(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's promise. Whole blocks of 128 from the start while more than 128 are
    // left, then the last 128 bytes, which overlap them where the length is no multiple.
    unsafe {
        core::arch::asm!(
            "test {left}, {left}",
            "jz 3f",
            "2:",
            "vmovdqu ymm0, [{from}]",
            "vmovdqu ymm1, [{from} + 32]",
            "vmovdqu ymm2, [{from} + 64]",
            "vmovdqu ymm3, [{from} + 96]",
            "vmovdqu [{to}], ymm0",
            "vmovdqu [{to} + 32], ymm1",
            "vmovdqu [{to} + 64], ymm2",
            "vmovdqu [{to} + 96], ymm3",
            "add {from}, 128",
            "add {to}, 128",
            "sub {left}, 128",
            "ja 2b",
            "3:",
            "vmovdqu ymm0, [{from} + {left}]",
            "vmovdqu ymm1, [{from} + {left} + 32]",
            "vmovdqu ymm2, [{from} + {left} + 64]",
            "vmovdqu ymm3, [{from} + {left} + 96]",
            "vmovdqu [{to} + {left}], ymm0",
            "vmovdqu [{to} + {left} + 32], ymm1",
            "vmovdqu [{to} + {left} + 64], ymm2",
            "vmovdqu [{to} + {left} + 96], ymm3",
            "vzeroupper",
            from = inout(reg) from => _, to = inout(reg) to => _,
            left = inout(reg) len - 128 => _,
            // `vzeroupper` clears the upper half of all of them.
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack)
        );
    }
}

/// As on x86-64, by relaxed atomic words where both sides are aligned alike, else by bytes.
///
/// # Safety
///
/// Both ranges are mapped, the destination writable, and they do not overlap.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    let words = if to.addr() % 8 == 0 && from.addr() % 8 == 0 {
        len / 8
    } else {
        0
    };
    for i in 0..words {
        // SAFETY: within the range, aligned by the check above.
        let source = unsafe { AtomicU64::from_ptr(from.cast_mut().cast::<u64>().add(i)) };
        // SAFETY: as above.
        let destination = unsafe { AtomicU64::from_ptr(to.cast::<u64>().add(i)) };
        destination.store(source.load(Ordering::Relaxed), Ordering::Relaxed);
    }
    for i in words * 8..len {
        // SAFETY: within the range; a byte is always aligned.
        let source = unsafe { AtomicU8::from_ptr(from.cast_mut().add(i)) };
        // SAFETY: as above.
        let destination = unsafe { AtomicU8::from_ptr(to.add(i)) };
        destination.store(source.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn wide_blocks_fetch_every_length_to_every_place() {
        if !std::arch::is_x86_feature_detected!("avx") {
            return;
        }
        let source: Vec<u8> = (0..4096_u32)
            .map(|i| (i % 251 + 1).to_le_bytes()[0])
            .collect();
        for len in (128..700).chain([1024, 4095, 4096]) {
            for shift in 0..33 {
                let mut back = vec![0_u8; len + 66];
                let to = back[shift..].as_mut_ptr();
                // SAFETY: both have room for that many bytes, of which there are 128, and the processor has AVX.
                unsafe { fetch_wide(to, source.as_ptr(), len) };
                assert_eq!(back[shift..shift + len], source[..len], "{len} to {shift}");
                let mut around = back[..shift].iter().chain(&back[shift + len..]);
                assert!(around.all(|b| *b == 0), "{len} to {shift}");
            }
        }
    }
}
