//! Why a file, or one of its copies, does not serve.

use std::io;

use super::format::FILE_VERSION;

/// Why a state's file does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is nothing in it.
    #[error("the file is empty: no state was ever saved in it")]
    Empty,
    /// Neither copy begins as one does.
    #[error(
        "this is not the file of a state: neither of its copies begins with a state file's mark"
    )]
    NotAStateFile,
    /// A newer program wrote it.
    #[error(
        "the file is of version {found}, and this program reads version {FILE_VERSION}; use the \
         program that wrote it, or a newer one"
    )]
    Version {
        /// The version it is of.
        found: u32,
    },
    /// No copy is whole.
    #[error(
        "the file is damaged beyond what power cuts do: its first copy {first}, its second \
         {second}; restore it from a backup"
    )]
    Damaged {
        /// What is wrong with the first copy.
        first: CopyError,
        /// And with the second.
        second: CopyError,
    },
    /// Both copies are whole, and only one can belong here.
    #[error(
        "the file is damaged: its two copies are of different files, and nothing tells which \
         belongs here; restore it from a backup"
    )]
    TwoFiles,
    /// It has more in it than a state's file would, and was to be made one.
    #[error("the file has {length} bytes in it, which are not to be lost; give an empty one")]
    NotEmpty {
        /// Its length in bytes.
        length: u64,
    },
    /// What the kernel said.
    #[error("the file cannot be read or written: {0}")]
    Io(#[from] io::Error),
}

/// Why one copy does not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The file ends before it.
    #[error("is not there: the file ends before it")]
    Absent,
    /// It does not begin as one.
    #[error("does not begin with a state file's mark")]
    Mark,
    /// It is of another version.
    #[error("is of version {found}, and this program reads version {FILE_VERSION}")]
    Version {
        /// The version it is of.
        found: u32,
    },
    /// It is cut, or its bytes are of two versions, or have changed.
    #[error("has the checksum {found:#010x}, and its bytes {computed:#010x}")]
    Checksum {
        /// What it says.
        found: u32,
        /// What its bytes have.
        computed: u32,
    },
    /// A length in it is not possible.
    #[error("says that its {field} has {found} bytes, and {most} are possible")]
    TooLong {
        /// What is so long.
        field: &'static str,
        /// Its length in bytes.
        found: usize,
        /// The greatest possible one.
        most: usize,
    },
    /// A field holds what is never written there.
    #[error("has a {field} that is never written")]
    Field {
        /// Which one.
        field: &'static str,
    },
    /// It belongs elsewhere in the file.
    #[error("belongs elsewhere in the file")]
    Misplaced,
    /// What the kernel said.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}
