//! What the bytes of a typed state mean, and how two programs notice that they disagree.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Plain old data that a state can hold: any bytes are a value, and a value is only its bytes.
///
/// Implemented for the integers and floats of fixed width and for arrays of layouts; for structs
/// by [`layout!`](crate::layout!). The first typed subscriber records the description with the
/// state, every later one is compared with it.
///
/// ```
/// use kstate::Layout;
///
/// assert_eq!(<[u16; 3]>::describe(), "[u16;3]");
/// assert_ne!(f64::id(), u64::id());
/// ```
pub trait Layout: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + 'static {
    /// The layout as text, the same in every program that has the same layout.
    fn describe() -> String;

    /// FNV-1a (64 bits) of the description, 1 in place of 0: two layouts are taken for the same
    /// exactly if these are equal.
    fn id() -> u64 {
        fingerprint(Self::describe().as_bytes())
    }
}

/// FNV-1a with 64 bits, never 0. <http://www.isthe.com/chongo/tech/comp/fnv/>
fn fingerprint(text: &[u8]) -> u64 {
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

macro_rules! scalars {
    ($($scalar:ident)+) => {
        $(impl Layout for $scalar {
            fn describe() -> String {
                stringify!($scalar).to_owned()
            }
        })+
    };
}

scalars!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);

impl<T: Layout, const N: usize> Layout for [T; N] {
    fn describe() -> String {
        format!("[{};{N}]", T::describe())
    }
}

/// Builds the description of a struct for [`layout!`](crate::layout!).
#[doc(hidden)]
#[derive(Debug)]
pub struct Description(String);

impl Description {
    /// A struct called `name`.
    pub fn of(name: &str) -> Self {
        Self(format!("{name}{{"))
    }

    /// With a field.
    #[must_use]
    pub fn field<T: Layout>(mut self, name: &str, offset: usize) -> Self {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.0
            .push_str(&format!("{name}:{}@{offset}", T::describe()));
        self
    }

    /// And `bytes` long.
    pub fn size(self, bytes: usize) -> String {
        format!("{}}}#{bytes}", self.0)
    }
}

/// Declares structs that a state can hold.
///
/// The struct is `#[repr(C)]`, `Copy`, `Debug` and `PartialEq`, and implements [`Layout`]: its
/// description has the name, each field's name, type and offset, and the size. A struct with
/// padding does not compile, because padding has no defined bytes: order the fields by falling
/// size, or name the gap as a field.
///
/// The expansion names this crate as `kstate`: a program that depends on it under another name
/// derives the traits by hand.
///
/// ```
/// use kstate::Layout;
///
/// kstate::layout! {
///     /// Where the robot is.
///     #[derive(Default)]
///     pub struct Gps {
///         pub lat: f64,
///         pub lon: f64,
///         pub fix: u32,
///         /// How many are in sight.
///         pub satellites: u32,
///     }
/// }
///
/// assert_eq!(Gps::describe(), "Gps{lat:f64@0,lon:f64@8,fix:u32@16,satellites:u32@20}#24");
/// ```
///
/// ```compile_fail
/// kstate::layout! {
///     struct Padded { small: u8, big: u64 }
/// }
/// ```
#[macro_export]
macro_rules! layout {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $type:ty),+ $(,)?
        }
    )+) => {$(
        $(#[$attribute])*
        #[derive(
            Clone,
            Copy,
            Debug,
            PartialEq,
            $crate::zerocopy::FromBytes,
            $crate::zerocopy::IntoBytes,
            $crate::zerocopy::Immutable,
            $crate::zerocopy::KnownLayout,
        )]
        #[repr(C)]
        #[zerocopy(crate = "kstate::zerocopy")]
        $visibility struct $name {
            $($(#[$field_attribute])* $field_visibility $field: $type,)+
        }

        impl $crate::Layout for $name {
            fn describe() -> ::std::string::String {
                $crate::Description::of(::core::stringify!($name))
                    $(.field::<$type>(
                        ::core::stringify!($field),
                        ::core::mem::offset_of!($name, $field),
                    ))+
                    .size(::core::mem::size_of::<$name>())
            }
        }
    )+};
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::layout! {
        struct Inner { a: u16, b: [i8; 2] }
        /// Documented.
        struct Outer { inner: Inner, x: f32, rest: [u64; 2] }
    }

    #[test]
    fn a_description_has_everything_two_programs_can_disagree_about() {
        assert_eq!(
            Outer::describe(),
            "Outer{inner:Inner{a:u16@0,b:[i8;2]@2}#4@0,x:f32@4,rest:[u64;2]@8}#24"
        );
    }

    #[test]
    fn fingerprints_are_those_of_the_reference() {
        // Test vectors of the FNV authors.
        assert_eq!(fingerprint(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fingerprint(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fingerprint(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn values_are_their_bytes() {
        let value = Inner {
            a: 0x0201,
            b: [3, -1],
        };
        assert_eq!(value.as_bytes(), [1, 2, 3, 255]);
        assert_eq!(Inner::read_from_bytes(&[1, 2, 3, 255]).unwrap(), value);
    }
}
