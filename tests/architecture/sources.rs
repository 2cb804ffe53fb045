//! Sources as modules: what each module declares, what it imports, and every path that it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ExprLit, Item, ItemMod, ItemUse, Lit, LitStr, Meta, Token, UseTree};

/// The text of every Rust file, by its path from the package's folder.
pub(crate) struct Files(BTreeMap<String, String>);

impl Files {
    /// The Rust files in `folder` of `package`, and in the folders below it.
    pub(crate) fn below(package: &Path, folder: &str) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![package.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(package).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        Self(files)
    }

    /// A single file of `package`.
    pub(crate) fn file(package: &Path, name: &str) -> Self {
        let text = fs::read_to_string(package.join(name)).unwrap();
        Self(BTreeMap::from([(name.to_owned(), text)]))
    }

    /// Files as given: names and texts.
    pub(crate) fn given(files: &[(&str, &str)]) -> Self {
        Self(
            files
                .iter()
                .map(|&(name, text)| (name.to_owned(), text.to_owned()))
                .collect(),
        )
    }

    /// The text of a file.
    pub(crate) fn text(&self, name: &str) -> &str {
        &self.0[name]
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }
}

/// A path as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Written {
    /// Whether it begins with `::`, and so with a crate's name.
    pub(crate) external: bool,
    /// Without generic arguments; never empty.
    pub(crate) segments: Vec<String>,
}

impl std::fmt::Display for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}{}",
            if self.external { "::" } else { "" },
            self.segments.join("::")
        )
    }
}

/// A path at a place in a module.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mention {
    pub(crate) line: usize,
    pub(crate) path: Written,
    /// Whether a `use` names the path.
    pub(crate) imported: bool,
}

/// A name that a `use` brings into a module.
pub(crate) struct Import {
    pub(crate) name: String,
    pub(crate) path: Written,
}

/// A module, inline or of a file of its own.
#[derive(Default)]
pub(crate) struct Module {
    /// Names from the crate's root to this module; none for the root itself.
    pub(crate) path: Vec<String>,
    pub(crate) file: String,
    pub(crate) parent: Option<usize>,
    /// Whether it, or a module around it, exists only in tests.
    pub(crate) test_only: bool,
    /// Whether it has a file of its own.
    pub(crate) has_file: bool,
    /// The first sentence of its documentation.
    pub(crate) summary: String,
    pub(crate) children: BTreeMap<String, usize>,
    /// The names of what it declares besides modules.
    pub(crate) items: BTreeSet<String>,
    pub(crate) imports: Vec<Import>,
    /// What it imports by `*`.
    pub(crate) globs: Vec<Written>,
    pub(crate) mentions: Vec<Mention>,
}

/// The modules of a crate.
pub(crate) struct Source {
    /// The first is the root.
    pub(crate) modules: Vec<Module>,
}

impl Source {
    /// Reads the modules that the file `root` declares, and those that they declare in turn. A program `src/main.rs`
    /// beside the library counts as a module `main` of the library.
    ///
    /// # Panics
    /// If a file is missing or is not Rust.
    pub(crate) fn read(files: &Files, root: &str) -> Self {
        let mut reader = Reader {
            files,
            modules: Vec::new(),
            at: 0,
        };
        reader.read_file(
            root,
            Module {
                has_file: true,
                ..Module::default()
            },
        );
        const PROGRAM: &str = "src/main.rs";
        if root == "src/lib.rs" && files.0.contains_key(PROGRAM) {
            reader.at = 0;
            let program = reader.child("main", true, false);
            reader.read_file(PROGRAM, program);
        }
        for module in &mut reader.modules {
            module.mentions.sort();
            module.mentions.dedup();
        }
        Self {
            modules: reader.modules,
        }
    }

    /// The room of a module; `None` for the root.
    pub(crate) fn room(&self, module: usize) -> Option<&str> {
        self.modules[module].path.first().map(String::as_str)
    }
}

/// Walks through the syntax of one module after the other.
struct Reader<'a> {
    files: &'a Files,
    modules: Vec<Module>,
    /// The module that is read.
    at: usize,
}

impl Reader<'_> {
    fn read_file(&mut self, name: &str, module: Module) {
        let text = self
            .files
            .0
            .get(name)
            .unwrap_or_else(|| panic!("{name} does not exist"));
        let file =
            syn::parse_file(text).unwrap_or_else(|error| panic!("{name}:{}: {error}", error.span().start().line));
        let module = Module {
            file: name.to_owned(),
            summary: summary(&file.attrs),
            ..module
        };
        self.read_items(module, &file.attrs, &file.items);
    }

    fn read_items(&mut self, module: Module, attributes: &[Attribute], items: &[Item]) {
        let outside = self.at;
        self.at = self.modules.len();
        if let (Some(parent), Some(name)) = (module.parent, module.path.last()) {
            self.modules[parent].children.insert(name.clone(), self.at);
        }
        self.modules.push(module);
        self.modules[self.at].items = items.iter().filter_map(declared).collect();
        for attribute in attributes {
            self.visit_attribute(attribute);
        }
        for item in items {
            self.visit_item(item);
        }
        self.at = outside;
    }

    /// A module in the one that is read.
    fn child(&self, name: &str, has_file: bool, test_only: bool) -> Module {
        let parent = &self.modules[self.at];
        Module {
            path: parent.path.iter().cloned().chain([name.to_owned()]).collect(),
            file: parent.file.clone(),
            parent: Some(self.at),
            test_only: test_only || parent.test_only,
            has_file,
            ..Module::default()
        }
    }

    /// The file of a module that the one that is read declares.
    fn file_of(&self, name: &str) -> String {
        let parent = &self.modules[self.at];
        let folder = if parent.path.is_empty() || parent.file.ends_with("/mod.rs") {
            parent.file.rsplit_once('/').map_or(".", |(folder, _)| folder)
        } else {
            parent.file.trim_end_matches(".rs")
        };
        let own = format!("{folder}/{name}.rs");
        if self.files.0.contains_key(&own) {
            own
        } else {
            format!("{folder}/{name}/mod.rs")
        }
    }

    fn mention(&mut self, line: usize, path: Written, imported: bool) {
        self.modules[self.at].mentions.push(Mention { line, path, imported });
    }

    /// Notes what the tree of a `use` names below `prefix`.
    fn read_use(&mut self, prefix: &Written, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => self.read_use(&prefix.join(&path.ident), &path.tree),
            UseTree::Name(name) => self.import(prefix, &name.ident, None),
            UseTree::Rename(rename) => self.import(prefix, &rename.ident, Some(rename.rename.unraw().to_string())),
            UseTree::Glob(glob) => {
                self.modules[self.at].globs.push(prefix.clone());
                self.mention(glob.star_token.span.start().line, prefix.clone(), true);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.read_use(prefix, tree)),
        }
    }

    fn import(&mut self, prefix: &Written, name: &Ident, renamed: Option<String>) {
        let path = if name == "self" && !prefix.segments.is_empty() {
            prefix.clone()
        } else {
            prefix.join(name)
        };
        let name_here = renamed.unwrap_or_else(|| path.segments.last().unwrap().clone());
        self.mention(name.span().start().line, path.clone(), true);
        self.modules[self.at].imports.push(Import { name: name_here, path });
    }

    /// Notes the paths in tokens whose grammar only a macro knows. With `strings`, also notes the paths in strings, as
    /// serde's attributes have them.
    fn read_tokens(&mut self, tokens: TokenStream, strings: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let colons = |at: usize| is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':');
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.read_tokens(group.stream(), strings),
                TokenTree::Literal(literal) if strings => {
                    if let Ok(Lit::Str(text)) = syn::parse2(TokenTree::from(literal.clone()).into()) {
                        self.read_string(&text);
                    }
                }
                TokenTree::Ident(first) => {
                    let is_variable = at > 0 && is_punct(tokens.get(at - 1), '$') && first != "crate";
                    let external = at >= 2 && colons(at - 2);
                    let mut path = Written {
                        external,
                        segments: Vec::new(),
                    }
                    .join(first);
                    while let (true, Some(TokenTree::Ident(next))) = (colons(at + 1), tokens.get(at + 3)) {
                        path = path.join(next);
                        at += 3;
                    }
                    match tokens.get(at + 3) {
                        Some(TokenTree::Group(group)) if colons(at + 1) && group.delimiter() == Delimiter::Brace => {
                            let trees = Punctuated::<UseTree, Token![,]>::parse_terminated.parse2(group.stream());
                            for tree in trees.into_iter().flatten() {
                                self.read_use(&path, &tree);
                            }
                            at += 3;
                        }
                        _ if path.segments.len() > 1 && !is_variable => {
                            self.mention(first.span().start().line, path, false);
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn read_string(&mut self, text: &LitStr) {
        if let Ok(path) = text.parse::<syn::Path>()
            && path.segments.len() > 1
        {
            self.mention(text.span().start().line, Written::of(&path), false);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        for attribute in &item.attrs {
            self.visit_attribute(attribute);
        }
        let name = item.ident.unraw().to_string();
        let child = self.child(&name, item.content.is_none(), item.attrs.iter().any(is_for_tests));
        match &item.content {
            Some((_, items)) => self.read_items(child, &[], items),
            None => self.read_file(&self.file_of(&name), child),
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let prefix = Written {
            external: item.leading_colon.is_some(),
            segments: Vec::new(),
        };
        self.read_use(&prefix, &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let line = path.segments[0].ident.span().start().line;
            self.mention(line, Written::of(path), false);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.read_tokens(call.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        // A link in documentation is no import.
        if attribute.path().is_ident("doc") {
            return;
        }
        self.visit_path(attribute.path());
        if let Meta::List(list) = &attribute.meta {
            self.read_tokens(list.tokens.clone(), true);
        }
    }

    // Who may see an item is no use of anything.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

impl Written {
    fn of(path: &syn::Path) -> Self {
        let segments = path
            .segments
            .iter()
            .map(|segment| segment.ident.unraw().to_string())
            .collect();
        Self {
            external: path.leading_colon.is_some(),
            segments,
        }
    }

    fn join(&self, name: &Ident) -> Self {
        let segments = self
            .segments
            .iter()
            .cloned()
            .chain([name.unraw().to_string()])
            .collect();
        Self {
            external: self.external,
            segments,
        }
    }
}

fn is_punct(token: Option<&TokenTree>, character: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == character)
}

/// Whether it is `#[cfg(test)]`.
pub(crate) fn is_for_tests(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|path| path.is_ident("test"))
}

/// The name of what an item declares, other than a module.
fn declared(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.unraw().to_string())
}

/// The first sentence of a module's documentation, on one line and without its full stop.
fn summary(attributes: &[Attribute]) -> String {
    let lines = attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("doc"))
        .map_while(|attribute| {
            let Meta::NameValue(meta) = &attribute.meta else {
                return None;
            };
            let Expr::Lit(ExprLit {
                lit: Lit::Str(text), ..
            }) = &meta.value
            else {
                return None;
            };
            let line = text.value().trim().to_owned();
            (!line.is_empty()).then_some(line)
        });
    let paragraph = lines.collect::<Vec<_>>().join(" ");
    let sentence = paragraph.split_once(". ").map_or(&*paragraph, |(sentence, _)| sentence);
    sentence.trim_end_matches('.').to_owned()
}
