//! The value of one state within a transaction.

use kstate::{Bytes, CommitError, Reader};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use crate::codec::{self, Coded};
use crate::error::raised;
use crate::input::Input;
use crate::page::Page;

/// What a state was at the beginning, with what the transaction has written.
#[derive(Debug)]
pub(crate) struct Part {
    reader: Reader<Bytes>,
    codec: Coded,
    base: u64,
    is_doomed: bool,
    value: Vec<u8>,
    /// Where it is changed in place, instead of `value`.
    page: Option<Py<Page>>,
    /// Views of `page` that are released at the end.
    views: Vec<Py<PyMemoryView>>,
    is_dirty: bool,
}

/// A value longer than any page is refused before room is made for it.
const MOST_BYTES: usize = 1 << 16;

impl Part {
    pub(crate) fn new(
        reader: Reader<Bytes>,
        codec: Coded,
        base: u64,
        is_doomed: bool,
        value: Vec<u8>,
    ) -> Self {
        Self {
            reader,
            codec,
            base,
            is_doomed,
            value,
            page: None,
            views: Vec::new(),
            is_dirty: false,
        }
    }

    pub(crate) fn reader(&self) -> &Reader<Bytes> {
        &self.reader
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.is_doomed
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Whether nobody has committed since the beginning.
    pub(crate) fn is_valid(&self) -> bool {
        !self.is_doomed && self.reader.generation().0 == self.base
    }

    pub(crate) fn length(&self) -> usize {
        self.page
            .as_ref()
            .map_or(self.value.len(), |page| page.get().length())
    }

    pub(crate) fn bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        match &self.page {
            None => PyBytes::new(py, &self.value),
            Some(page) => PyBytes::new(py, &page.get().copy()),
        }
    }

    /// As the handle sees it; `None` if nobody has written.
    ///
    /// # Errors
    ///
    /// `WrongLayout`, and what the codec says.
    pub(crate) fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let written = self.base != 0 || self.is_dirty;
        let bytes = self.bytes(py).into_any();
        codec::decode(&self.codec, &self.reader, bytes, self.length(), written)
    }

    /// Replaces it.
    ///
    /// # Errors
    ///
    /// Those of [`Input::of`].
    pub(crate) fn write(&mut self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = Input::of(data, &self.reader)?;
        self.check(value.len())?;
        self.replace(data.py(), value.into_owned());
        Ok(())
    }

    /// Replaces it by a value as the handle sees it.
    ///
    /// # Errors
    ///
    /// Those of [`codec::encode`].
    pub(crate) fn set(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let encoded = codec::encode(&self.codec, &self.reader, value, |input| {
            Ok(input.into_owned())
        })?;
        self.replace(value.py(), encoded);
        Ok(())
    }

    fn replace(&mut self, py: Python<'_>, value: Vec<u8>) {
        self.release(py);
        self.value = value;
        self.is_dirty = true;
    }

    /// Gives it another length: what is added is zeros.
    ///
    /// # Errors
    ///
    /// `TooLong`.
    pub(crate) fn resize(&mut self, py: Python<'_>, length: usize) -> PyResult<()> {
        self.check(length)?;
        let mut value = self.current();
        value.resize(length, 0);
        self.replace(py, value);
        Ok(())
    }

    /// Before so much is copied.
    fn check(&self, length: usize) -> PyResult<()> {
        match length > MOST_BYTES {
            false => Ok(()),
            true => Err(raised(CommitError::TooLong {
                name: self.reader.name().clone(),
                length,
                capacity: self.reader.capacity(),
            })),
        }
    }

    fn current(&self) -> Vec<u8> {
        match &self.page {
            None => self.value.clone(),
            Some(page) => page.get().copy(),
        }
    }

    /// The memory it is changed in from now on.
    fn page<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, Page>> {
        if let Some(page) = &self.page {
            return Ok(page.bind(py).clone());
        }
        let page = Bound::new(py, Page::new(std::mem::take(&mut self.value)))?;
        self.page = Some(page.clone().unbind());
        Ok(page)
    }

    /// A view to be written to, which is released at the end.
    ///
    /// # Errors
    ///
    /// None but for want of memory.
    pub(crate) fn view<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyMemoryView>> {
        let page = self.page(py)?.into_any();
        let view = PyMemoryView::from(&page)?;
        self.is_dirty = true;
        self.views.push(view.clone().unbind());
        Ok(view)
    }

    /// A value in place, as the handle sees it. A state nobody has written begins as zeros.
    ///
    /// # Errors
    ///
    /// `WrongLayout`, and what the codec says.
    pub(crate) fn edit<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Some(codec) = self.codec.clone() else {
            return self.view(py).map(Bound::into_any);
        };
        if let (0, Some(size)) = (self.length(), codec.size())
            && self.base == 0
        {
            self.resize(py, size)?;
        }
        let length = self.length();
        let page = self.page(py)?.into_any();
        let value = codec::edit(&self.codec, &self.reader, page, length)?;
        self.is_dirty = true;
        if let Ok(view) = value.cast::<PyMemoryView>() {
            self.views.push(view.clone().unbind());
        }
        Ok(value)
    }

    /// A numpy array in place.
    ///
    /// # Errors
    ///
    /// What numpy says.
    pub(crate) fn array<'py>(
        &mut self,
        py: Python<'py>,
        dtype: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let page = self.page(py)?;
        let module = PyModule::import(py, "kstate._codec")?;
        let array = module.getattr("array")?.call1((page, dtype))?;
        self.is_dirty = true;
        Ok(array)
    }

    /// Ends it: what is to be committed, if anything was written.
    pub(crate) fn end(&mut self, py: Python<'_>) -> Option<Vec<u8>> {
        let value = self.is_dirty.then(|| self.current());
        self.release(py);
        value
    }

    fn release(&mut self, py: Python<'_>) {
        for view in self.views.drain(..) {
            // One that something else was made of stays, over memory that nobody looks at any more.
            let _ = view.bind(py).call_method0("release");
        }
        self.page = None;
    }
}
