use super::*;
use tempfile::TempDir;
use wasmtime::component::{Linker, ResourceType};
use wasmtime::{Engine, Store};

/// A gate component whose exports are its imports.
const GATE: &str = r#"(component
    (import "a:b/c@0.1.0" (instance $c (export "f" (func (result u32)))))
    (instance $door (export "f" (func $c "f")))
    (export "p:q/door@0.1.0" (instance $door)))"#;

/// A component that exports a function that answers seven, after these imports.
fn seven(imports: &str, export: &str) -> String {
    format!(
        r#"(component {imports}
        (core module $m (func (export "f") (result i32) i32.const 7))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (instance $c (export "f" (func $f)))
        (export "{export}" (instance $c)))"#
    )
}

fn import(name: &str) -> String {
    format!(r#"(import "{name}" (instance (export "g" (func))))"#)
}

/// An application in a folder of its own: a gate, and a policy as a dependency of it.
struct Application {
    dir: TempDir,
    dependencies: String,
}

impl Application {
    fn new(gate: &str, policy: &str) -> Self {
        let application = Self {
            dir: tempfile::tempdir().expect("a directory"),
            dependencies: r#""a:b/c@0.1.0" = { component = "policy" }"#.to_owned(),
        };
        application.file("gate.wasm", gate);
        application.file("policy.wasm", policy);
        application
    }

    fn depending(mut self, dependencies: &str) -> Self {
        self.dependencies = dependencies.to_owned();
        self
    }

    fn file(&self, name: &str, text: &str) {
        let bytes = wat::parse_str(text).expect(text);
        std::fs::write(self.dir.path().join(name), bytes).expect("written");
    }

    fn manifest(&self) -> Manifest {
        let text = format!(
            "spin_manifest_version = 2\n[application]\nname = \"a\"\n\
             [[trigger.http]]\nroute = \"/...\"\ncomponent = \"gate\"\n\
             [component.gate]\nsource = \"gate.wasm\"\n\
             [component.policy]\nsource = \"policy.wasm\"\n\
             [component.gate.dependencies]\n{}\n",
            self.dependencies
        );
        let path = self.dir.path().join("spin.toml");
        Manifest::parse(&path, &text).unwrap_or_else(|findings| panic!("{findings:#?}"))
    }

    fn compose(&self) -> Result<Composed, Vec<Finding>> {
        compose(&self.manifest(), "gate", |name| name.starts_with("wasi:"))
    }

    #[track_caller]
    fn composed(&self) -> Composed {
        self.compose().unwrap_or_else(|findings| {
            let shown: Vec<String> = findings.iter().map(Finding::to_string).collect();
            panic!("{}", shown.join("\n"))
        })
    }

    /// Asserts that it has exactly one finding, on this line, that says all this.
    #[track_caller]
    fn refused(&self, line: usize, said: &[&str]) {
        let findings = self.compose().expect_err("refused");
        assert_eq!(findings.len(), 1, "{findings:#?}");
        let shown = findings[0].to_string();
        for said in said {
            assert!(shown.contains(said), "expected `{said}` in\n{shown}");
        }
        assert_eq!(findings[0].line, Some(line), "{shown}");
    }
}

/// Returns the answer of the composed component.
fn answer(composed: &Composed) -> u32 {
    let engine = Engine::default();
    let component = wasmtime::component::Component::new(&engine, &composed.bytes).expect("valid");
    let mut linker: Linker<()> = Linker::new(&engine);
    for import in &composed.imports {
        let mut instance = linker.instance(import).expect("an instance");
        if import.starts_with("wasi:filesystem/types") {
            let descriptor = ResourceType::host::<()>();
            instance
                .resource("descriptor", descriptor, |_, _| Ok(()))
                .expect("a resource");
        }
    }
    let mut store = Store::new(&engine, ());
    let instance = linker
        .instantiate(&mut store, &component)
        .expect("instantiated");
    let door = component
        .get_export_index(None, "p:q/door@0.1.0")
        .expect("a door");
    let f = component
        .get_export_index(Some(&door), "f")
        .expect("a function");
    let f = instance
        .get_typed_func::<(), (u32,)>(&mut store, &f)
        .expect("its type");
    f.call(&mut store, ()).expect("an answer").0
}

#[test]
fn a_dependency_is_plugged_into_the_import_its_key_names() {
    for key in ["a:b/c@0.1.0", "a:b/c", "a:b@0.1.0", "a:b"] {
        let application = Application::new(GATE, &seven("", "a:b/c@0.1.0"))
            .depending(&format!(r#""{key}" = {{ component = "policy" }}"#));
        let composed = application.composed();
        assert!(composed.imports.is_empty(), "{key}: {:?}", composed.imports);
        assert_eq!(answer(&composed), 7, "{key}");
        assert_eq!(composed.warnings, []);
    }
}

#[test]
fn a_dependency_may_be_a_file_and_its_export_may_have_another_name() {
    let application = Application::new(GATE, &seven("", "x:y/z@2.0.0"))
        .depending(r#""a:b/c" = { path = "policy.wasm", export = "x:y/z@2.0.0" }"#);
    assert_eq!(answer(&application.composed()), 7);
}

#[test]
fn a_compatible_version_stands_in_with_a_warning_and_another_does_not() {
    let application = Application::new(GATE, &seven("", "a:b/c@0.1.3"));
    let composed = application.composed();
    assert_eq!(answer(&composed), 7);
    assert_eq!(composed.warnings.len(), 1);
    assert!(composed.warnings[0].message.contains("Spin does not"));

    let application = Application::new(GATE, &seven("", "a:b/c@0.2.0"));
    application.refused(
        12,
        &["does not export a:b/c@0.1.0", "did you mean a:b/c@0.2.0"],
    );
}

#[test]
fn types_that_both_sides_import_stay_one_and_need_nobody_to_provide_them() {
    let types = r#"(import "penstock:types/types@0.1.0" (instance $t
            (type $r (record (field "n" u32)))
            (export "r" (type (eq $r)))))
        (alias export $t "r" (type $r))"#;
    let gate = format!(
        r#"(component {types}
            (import "a:b/c@0.1.0" (instance $c
                (alias outer 1 $r (type $outer))
                (export "r" (type $named (eq $outer)))
                (export "f" (func (result $named)))))
            (instance $door (export "f" (func $c "f")))
            (export "p:q/door@0.1.0" (instance $door)))"#
    );
    let policy = format!(
        r#"(component {types}
            (core module $m (func (export "f") (result i32) i32.const 7))
            (core instance $i (instantiate $m))
            (func $f (result $r) (canon lift (core func $i "f")))
            (instance $c (export "r" (type $r)) (export "f" (func $f)))
            (export "a:b/c@0.1.0" (instance $c)))"#
    );
    let composed = Application::new(&gate, &policy).composed();
    assert_eq!(composed.imports, ["penstock:types/types@0.1.0"]);
}

#[test]
fn imports_that_only_compute_are_left_to_the_host() {
    let imports: String = [
        "wasi:io/streams@0.2.6",
        "wasi:clocks/monotonic-clock@0.2.6",
        "wasi:random/random@0.2.6",
        "wasi:cli/stdout@0.2.6",
        "wasi:cli/terminal-stdout@0.2.6",
        "wasi:nn/inference@0.2.0-rc-2024-10-28",
    ]
    .map(import)
    .concat();
    let composed = Application::new(GATE, &seven(&imports, "a:b/c@0.1.0")).composed();
    assert_eq!(composed.imports.len(), 6, "{:?}", composed.imports);
}

#[test]
fn an_import_that_reaches_outside_is_refused_by_name_unless_it_is_inherited() {
    for (name, capability) in [
        ("wasi:http/outgoing-handler@0.2.6", "allowed_outbound_hosts"),
        (
            "wasi:sockets/tcp-create-socket@0.2.6",
            "allowed_outbound_hosts",
        ),
        ("wasi:keyvalue/store@0.2.0-draft2", "key_value_stores"),
        ("wasi:keyvalue/atomics@0.2.0-draft2", "key_value_stores"),
        ("fermyon:spin/key-value@2.0.0", "key_value_stores"),
        ("spin:key-value/key-value@3.0.0", "key_value_stores"),
        ("wasi:config/store@0.2.0-rc.1", "variables"),
        ("fermyon:spin/llm@2.0.0", "ai_models"),
        ("spin:sqlite/sqlite@3.1.0", "sqlite_databases"),
        ("wasi:filesystem/preopens@0.2.6", "files"),
        ("wasi:filesystem/tomorrow@0.4.0", "files"),
    ] {
        let policy = seven(&import(name), "a:b/c@0.1.0");
        let application = Application::new(GATE, &policy);
        let remedy = format!(r#"inherit_configuration = ["{capability}"]"#);
        application.refused(
            12,
            &["`policy`", name, "inherits no configuration", &remedy],
        );

        for inherit in [&format!(r#"["{capability}"]"#), "true"] {
            let entry = format!(
                r#""a:b/c" = {{ component = "policy", inherit_configuration = {inherit} }}"#
            );
            let application = Application::new(GATE, &policy).depending(&entry);
            let composed = compose(&application.manifest(), "gate", |_| true).expect(name);
            assert_eq!(composed.imports, [name]);
        }
        let other =
            r#""a:b/c" = { component = "policy", inherit_configuration = ["environment"] }"#;
        Application::new(GATE, &policy)
            .depending(other)
            .refused(12, &[name, "not inherit"]);
    }
}

#[test]
fn an_import_no_list_knows_is_refused() {
    let application = Application::new(GATE, &seven(&import("x:y/z@1.0.0"), "a:b/c@0.1.0"));
    application.refused(12, &["x:y/z@1.0.0", "inherit_configuration = true"]);
    let bare = seven(r#"(import "g" (func))"#, "a:b/c@0.1.0");
    Application::new(GATE, &bare).refused(12, &["imports g "]);
}

#[test]
fn the_environment_of_a_dependency_that_inherits_nothing_is_empty() {
    for (version, cwd) in [
        ("0.2.6", "initial-cwd"),
        ("0.2.0", "initial-cwd"),
        ("0.3.0", "get-initial-cwd"),
    ] {
        // The answer counts the variables, the arguments and the working directories.
        let policy = format!(
            r#"(component
            (import "wasi:cli/environment@{version}" (instance $env
                (export "get-environment" (func (result (list (tuple string string)))))
                (export "get-arguments" (func (result (list string))))
                (export "{cwd}" (func (result (option string))))))
            (core module $memory
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
            (core instance $memory (instantiate $memory))
            (alias core export $memory "memory" (core memory $shared))
            (alias core export $memory "realloc" (core func $realloc))
            (core func $env (canon lower (func $env "get-environment") (memory $shared) (realloc $realloc)))
            (core func $args (canon lower (func $env "get-arguments") (memory $shared) (realloc $realloc)))
            (core func $cwd (canon lower (func $env "{cwd}") (memory $shared) (realloc $realloc)))
            (core module $m
                (import "" "env" (func $env (param i32)))
                (import "" "args" (func $args (param i32)))
                (import "" "cwd" (func $cwd (param i32)))
                (import "" "memory" (memory 1))
                (func (export "f") (result i32)
                    (i32.store (i32.const 20) (i32.const 99))
                    (i32.store (i32.const 36) (i32.const 99))
                    (i32.store (i32.const 48) (i32.const 99))
                    (call $env (i32.const 16))
                    (call $args (i32.const 32))
                    (call $cwd (i32.const 48))
                    (i32.add (i32.load (i32.const 20))
                        (i32.add (i32.load (i32.const 36)) (i32.load8_u (i32.const 48))))))
            (core instance $i (instantiate $m (with "" (instance
                (export "env" (func $env)) (export "args" (func $args)) (export "cwd" (func $cwd))
                (export "memory" (memory $shared))))))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $c (export "f" (func $f)))
            (export "a:b/c@0.1.0" (instance $c)))"#
        );
        let composed = Application::new(GATE, &policy).composed();
        assert!(composed.imports.is_empty(), "{:?}", composed.imports);
        assert_eq!(answer(&composed), 0, "{version}");
    }
}

#[test]
fn a_dependency_that_inherits_nothing_sees_no_directory() {
    let policy = r#"(component
        (import "wasi:filesystem/types@0.2.6" (instance $types
            (export "descriptor" (type (sub resource)))))
        (alias export $types "descriptor" (type $descriptor))
        (import "wasi:filesystem/preopens@0.2.6" (instance $preopens
            (alias outer 1 $descriptor (type $outer))
            (export "descriptor" (type $named (eq $outer)))
            (export "get-directories" (func (result (list (tuple (own $named) string)))))))
        (core module $memory
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024))
        (core instance $memory (instantiate $memory))
        (alias core export $memory "memory" (core memory $shared))
        (alias core export $memory "realloc" (core func $realloc))
        (core func $get (canon lower (func $preopens "get-directories") (memory $shared) (realloc $realloc)))
        (core module $m
            (import "" "get" (func $get (param i32)))
            (import "" "memory" (memory 1))
            (func (export "f") (result i32)
                (i32.store (i32.const 20) (i32.const 99))
                (call $get (i32.const 16))
                (i32.load (i32.const 20))))
        (core instance $i (instantiate $m (with "" (instance
            (export "get" (func $get)) (export "memory" (memory $shared))))))
        (func $f (result u32) (canon lift (core func $i "f")))
        (instance $c (export "f" (func $f)))
        (export "a:b/c@0.1.0" (instance $c)))"#;
    let composed = Application::new(GATE, policy).composed();
    assert_eq!(composed.imports, ["wasi:filesystem/types@0.2.6"]);
    assert_eq!(answer(&composed), 0);
}

#[test]
fn one_component_for_two_imports_is_one_instance() {
    let gate = r#"(component
        (import "a:b/c@0.1.0" (instance $c (export "f" (func (result u32)))))
        (import "d:e/f@0.1.0" (instance $d (export "f" (func (result u32)))))
        (instance $door (export "f" (func $c "f")) (export "g" (func $d "f")))
        (export "p:q/door@0.1.0" (instance $door)))"#;
    let policy = r#"(component
        (core module $m (global $n (mut i32) (i32.const 7))
            (func (export "f") (result i32) global.get $n))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (instance $c (export "f" (func $f)))
        (export "a:b/c@0.1.0" (instance $c))
        (export "d:e/f@0.1.0" (instance $c)))"#;
    let both = "\"a:b/c\" = { component = \"policy\" }\n\"d:e/f\" = { component = \"policy\" }";
    let composed = Application::new(gate, policy).depending(both).composed();
    assert!(composed.imports.is_empty());
    assert_eq!(answer(&composed), 7);
    let magic = b"\0asm\x0d\0\x01\0";
    let components = composed.bytes.windows(magic.len()).filter(|at| at == magic);
    assert_eq!(components.count(), 3, "the whole, the gate and the policy");

    let uneven = "\"a:b/c\" = { component = \"policy\" }\n\"d:e/f\" = { component = \"policy\", inherit_configuration = true }";
    let application = Application::new(gate, policy).depending(uneven);
    application.refused(13, &["differ in what they inherit"]);
}

#[test]
fn an_import_without_a_provider_is_refused_by_name() {
    let gate = GATE.replacen(
        "(component",
        &format!("(component {}", import("x:y/z@1.0.0")),
        1,
    );
    let application = Application::new(&gate, &seven("", "a:b/c@0.1.0"));
    application.refused(7, &["`gate` imports x:y/z@1.0.0", "nor this host provides"]);
    let policy = seven(&import("penstock:other/other@0.1.0"), "a:b/c@0.1.0");
    let application = Application::new(GATE, &policy);
    application.refused(12, &["penstock:other/other@0.1.0", "does not provide"]);
}

#[test]
fn a_key_that_names_no_import_is_refused() {
    let application = Application::new(GATE, &seven("", "a:b/c@0.1.0")).depending(
        "\"a:b/c\" = { component = \"policy\" }\n\"a:b/d@0.2.0\" = { component = \"policy\" }",
    );
    application.refused(13, &["imports nothing called `a:b/d@0.2.0`"]);
}

#[test]
fn an_export_of_another_type_is_refused() {
    let policy = seven("", "a:b/c@0.1.0").replace("(func $f (result u32)", "(func $f (result s32)");
    let application = Application::new(GATE, &policy);
    application.refused(
        12,
        &["but not as component `gate` imports it", "same WIT package"],
    );
}

#[test]
fn a_component_without_dependencies_is_served_as_it_is() {
    let application =
        Application::new(&seven("", "p:q/door@0.1.0"), &seven("", "a:b/c@0.1.0")).depending("");
    let composed = application.composed();
    let source = std::fs::read(application.dir.path().join("gate.wasm")).expect("the file");
    assert_eq!(composed.bytes, source);
    assert_eq!(answer(&composed), 7);
}

#[test]
fn a_file_that_is_no_component_is_refused_with_what_it_is() {
    let application = Application::new(GATE, "(module)");
    application.refused(12, &["is a core module", "wasm32-wasip2"]);
    let policy = application.dir.path().join("policy.wasm");
    for (content, said) in [
        (&b"text"[..], "is not WebAssembly"),
        (b"", "is not WebAssembly"),
        (b"\0asm\x0d\0\x01\0\xff", "is not a valid component"),
    ] {
        std::fs::write(&policy, content).expect("written");
        application.refused(12, &["`policy`", said]);
    }
    std::fs::remove_file(&policy).expect("removed");
    application.refused(12, &["cannot be read", "scripts/build"]);
}

#[test]
fn an_unknown_component_is_refused_with_the_known_ones() {
    let application = Application::new(GATE, &seven("", "a:b/c@0.1.0"));
    let findings = compose(&application.manifest(), "gat", |_| true).expect_err("unknown");
    assert!(findings[0].remedy.contains("`gate`"), "{}", findings[0]);
}

#[test]
fn all_that_is_wrong_is_found_at_once() {
    let gate = GATE.replacen(
        "(component",
        &format!("(component {}", import("x:y/z@1.0.0")),
        1,
    );
    let policy = seven(
        &[
            import("wasi:http/client@0.3.0"),
            import("wasi:sockets/types@0.3.0"),
        ]
        .concat(),
        "a:b/c@0.1.0",
    );
    let findings = Application::new(&gate, &policy)
        .compose()
        .expect_err("refused");
    assert_eq!(findings.len(), 3, "{findings:#?}");
}
