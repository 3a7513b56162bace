//! A file of `/proc` that is read again and again.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::SampleError;
use super::parse::ParseError;

/// Holds any of the files on a machine of some dozen processors; beyond that, it grows once.
const BUFFER_BYTES: usize = 16 * 1024;

/// A file that the kernel writes anew whenever it is read from its beginning.
#[derive(Debug)]
pub(super) struct ProcFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
}

impl ProcFile {
    pub(super) fn open(path: PathBuf) -> Result<Self, SampleError> {
        match File::open(&path) {
            Ok(file) => Ok(Self {
                path,
                file,
                buffer: vec![0; BUFFER_BYTES],
            }),
            Err(source) => Err(SampleError::Open { path, source }),
        }
    }

    /// Reads the file from its beginning, and its text into a sample.
    pub(super) fn sample<T>(
        &mut self,
        parse: fn(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, SampleError> {
        let text = match read_all(&self.file, &mut self.buffer) {
            Ok(length) => &self.buffer[..length],
            Err(source) => {
                return Err(SampleError::Read {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        parse(text).map_err(|source| SampleError::Parse {
            path: self.path.clone(),
            source,
        })
    }
}

/// Reads to the end of the file. The kernel may hand out less than there is room for at any time
/// (`fs/seq_file.c`), so that only a read of nothing is the end.
fn read_all(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        if length == buffer.len() {
            buffer.resize(length * 2, 0);
        }
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => return Ok(length),
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
