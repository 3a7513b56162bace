//! A unit file of systemd, as far as tests want to know it.

/// The settings of a unit file, in order.
#[derive(Clone, Debug)]
pub struct Unit(Vec<Setting>);

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The section that it is in.
    pub section: String,
    /// What stands before the first `=`.
    pub key: String,
    /// What stands behind it.
    pub value: String,
}

impl Unit {
    /// Reads one, by the rules of systemd.syntax(7) without continued lines.
    ///
    /// # Panics
    ///
    /// When a line is neither a section, a setting nor a comment.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut section = String::new();
        let mut settings = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            assert!(!line.ends_with('\\'), "continued: {line}");
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                name.clone_into(&mut section);
                continue;
            }
            let (key, value) = line.split_once('=').expect("a setting");
            settings.push(Setting {
                section: section.clone(),
                key: key.trim().to_owned(),
                value: value.trim().to_owned(),
            });
        }
        Self(settings)
    }

    /// All of them.
    pub fn settings(&self) -> &[Setting] {
        &self.0
    }

    /// The value of a setting that is there once.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[track_caller]
    pub fn value(&self, key: &str) -> &str {
        let found: Vec<_> = self.0.iter().filter(|setting| setting.key == key).collect();
        match found[..] {
            [setting] => &setting.value,
            _ => panic!("{key} is there {} times", found.len()),
        }
    }

    /// The words of such a value.
    ///
    /// # Panics
    ///
    /// As [`Unit::value`].
    #[track_caller]
    pub fn words(&self, key: &str) -> Vec<&str> {
        self.value(key).split_whitespace().collect()
    }
}
