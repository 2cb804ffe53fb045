//! What a path means: the module it leads to, through imports and re-exports, or another crate.

use crate::sources::{Import, Source, Written};

/// The crate's name, as `src/main.rs` knows the library.
const LIBRARY: &str = "maskclip";

/// Where a path ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// At a module itself.
    Module(usize),
    /// At something that a module declares, or that a macro makes in it.
    Item(usize),
    /// Outside this crate: the first name of the path. A name that no module explains counts as a crate, for example
    /// `Vec` in `Vec::new`.
    Crate(String),
}

/// What a path means, and the modules that it leads through, in this order.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) found: Found,
    pub(crate) through: Vec<usize>,
}

impl Source {
    /// What `path` means in the module `from`; `None` if it leaves the root upwards.
    pub(crate) fn resolve(&self, from: usize, path: &Written) -> Option<Resolved> {
        let mut search = Search {
            source: self,
            through: Vec::new(),
            open: Vec::new(),
        };
        let found = search.path(from, path)?;
        Some(Resolved {
            found,
            through: search.through,
        })
    }

    /// Every path that a module writes, with what it means.
    pub(crate) fn uses(&self) -> impl Iterator<Item = Use<'_>> {
        self.modules.iter().enumerate().flat_map(move |(module, declared)| {
            declared.mentions.iter().filter_map(move |mention| {
                let resolved = self.resolve(module, &mention.path)?;
                let first = &*mention.path.segments[0];
                let is_spelled_out = mention.imported
                    || matches!(first, "crate" | "self" | "super" | LIBRARY)
                    || matches!(&resolved.found, Found::Crate(name) if name == first);
                Some(Use {
                    module,
                    line: mention.line,
                    path: &mention.path,
                    resolved,
                    is_spelled_out,
                })
            })
        })
    }
}

/// A path and what it means.
pub(crate) struct Use<'a> {
    /// The module that writes it.
    pub(crate) module: usize,
    pub(crate) line: usize,
    pub(crate) path: &'a Written,
    pub(crate) resolved: Resolved,
    /// Whether it says by itself where it leads. Others begin with an imported name, so that the import tells.
    pub(crate) is_spelled_out: bool,
}

impl Use<'_> {
    /// The file, line and path, to begin a message with.
    pub(crate) fn place(&self, source: &Source) -> String {
        format!("{}:{}: `{}`", source.modules[self.module].file, self.line, self.path)
    }
}

struct Search<'a> {
    source: &'a Source,
    through: Vec<usize>,
    /// The imports that are looked into at the moment: `use image;` must not ask for itself.
    open: Vec<(usize, String)>,
}

impl Search<'_> {
    fn path(&mut self, from: usize, path: &Written) -> Option<Found> {
        let (first, rest) = path.segments.split_first().expect("a path has a segment");
        if path.external {
            return Some(Found::Crate(first.clone()));
        }
        let mut found = match &**first {
            "crate" | LIBRARY => Found::Module(0),
            "self" => Found::Module(from),
            "super" => Found::Module(self.source.modules[from].parent?),
            name => self.name(from, name).unwrap_or_else(|| Found::Crate(name.to_owned())),
        };
        self.pass(&found);
        for segment in rest {
            let Found::Module(module) = found else {
                break; // An associated item, or a name inside another crate.
            };
            found = if segment == "super" {
                Found::Module(self.source.modules[module].parent?)
            } else {
                self.name(module, segment).unwrap_or(Found::Item(module))
            };
            self.pass(&found);
        }
        Some(found)
    }

    fn pass(&mut self, found: &Found) {
        if let Found::Module(module) | Found::Item(module) = *found
            && self.through.last() != Some(&module)
        {
            self.through.push(module);
        }
    }

    /// What a name means in a module: what it declares before what it imports, as in Rust.
    fn name(&mut self, module: usize, name: &str) -> Option<Found> {
        let source = self.source;
        let declared = &source.modules[module];
        if let Some(&child) = declared.children.get(name) {
            return Some(Found::Module(child));
        }
        if declared.items.contains(name) {
            return Some(Found::Item(module));
        }
        let key = (module, name.to_owned());
        if self.open.contains(&key) {
            return None;
        }
        self.open.push(key);
        let found = match declared.imports.iter().find(|import| import.name == name) {
            Some(Import { path, .. }) => self.path(module, path),
            None => declared
                .globs
                .iter()
                .find_map(|glob| self.name_in_glob(module, glob, name)),
        };
        self.open.pop();
        found
    }

    /// What a name means that `module` imports by `glob::*`, if that is there.
    fn name_in_glob(&mut self, module: usize, glob: &Written, name: &str) -> Option<Found> {
        let before = self.through.len();
        let found = match self.path(module, glob) {
            Some(Found::Module(from)) => self.name(from, name),
            _ => None,
        };
        if found.is_none() {
            self.through.truncate(before);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Files;

    /// What a path in a module means: the path of a module, `module!` for an item in it, or `:crate`.
    fn meaning(files: &[(&str, &str)], module: &str, path: &str) -> String {
        let source = Source::read(&Files::given(files), "src/lib.rs");
        let named = |module: usize| source.modules[module].path.join("::");
        let from = (0..source.modules.len()).find(|&at| named(at) == module).unwrap();
        let segments = path.split("::").map(str::to_owned).collect();
        match source
            .resolve(
                from,
                &Written {
                    external: false,
                    segments,
                },
            )
            .unwrap()
            .found
        {
            Found::Module(module) => named(module),
            Found::Item(module) => format!("{}!", named(module)),
            Found::Crate(name) => format!(":{name}"),
        }
    }

    const FILES: &[(&str, &str)] = &[
        ("src/lib.rs", "pub mod clip; pub mod image; pub mod dense;"),
        ("src/image.rs", "pub struct Pixels; use image::DynamicImage;"),
        (
            "src/clip/mod.rs",
            "mod text; pub use text::{Tower, encode as embed}; pub use self::inner::*; mod inner { pub fn deep() {} }",
        ),
        (
            "src/clip/text.rs",
            "pub struct Tower; pub fn encode() {} mod tests { use super::*; use super::super::inner as nested; }",
        ),
        (
            "src/dense.rs",
            "use crate::clip as towers; use tch::Tensor; use crate::{clip::{self, Tower}, image};",
        ),
    ];

    #[test]
    fn paths_lead_up_and_down_the_modules() {
        for (module, path, expected) in [
            ("clip::text", "super::super::image::Pixels", "image!"),
            ("clip::text::tests", "super::super::text", "clip::text"),
            ("clip::text", "self::tests", "clip::text::tests"),
            ("clip", "text::encode", "clip::text!"),
            ("dense", "crate::image", "image"),
        ] {
            assert_eq!(meaning(FILES, module, path), expected, "{path}");
        }
    }

    #[test]
    fn imported_names_lead_where_their_imports_say() {
        for (module, path, expected) in [
            ("dense", "towers::Tower", "clip::text!"),
            ("dense", "clip::embed", "clip::text!"),
            ("dense", "Tower::new", "clip::text!"),
            ("dense", "image::Pixels", "image!"),
            ("dense", "crate::clip::deep", "clip::inner!"),
            ("clip::text::tests", "encode", "clip::text!"),
            ("clip::text::tests", "nested::deep", "clip::inner!"),
        ] {
            assert_eq!(meaning(FILES, module, path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_another_crate() {
        for (module, path, expected) in [
            ("image", "image::DynamicImage", ":image"),
            ("image", "DynamicImage::new", ":image"),
            ("dense", "Tensor::zeros", ":tch"),
            ("clip", "Vec::new", ":Vec"),
        ] {
            assert_eq!(meaning(FILES, module, path), expected, "{path}");
        }
    }
}
