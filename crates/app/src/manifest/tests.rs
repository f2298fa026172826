use super::*;
use crate::Severity;

const WHOLE: &str = r#"spin_manifest_version = 2

[application]
name = "penstock"
version = "0.1.0"
description = "An API in front of models"
authors = ["somebody"]
targets = ["spin-up:3.3"]
[application.tool.editor]
anything = { at = ["all"] }

[variables]
region = { default = "here" }
token = { required = true, secret = true, description = "who we are" }

[[trigger.http]]
id = "front"
route = "/..."
component = "gate"
executor = { type = "http" }

[[trigger.http]]
route = "/v2/..."
component = "gate"

[[trigger.http]]
route = { private = true }
component = "gate"

[component.gate]
description = "The gate"
source = "build/gate.wasm"
files = [{ source = "models", destination = "/models" }, "assets/**"]
exclude_files = ["assets/secret"]
environment = { LEVEL = "info" }
variables = { where = "{{ region }}-{{token}}" }
allowed_outbound_hosts = []
key_value_stores = []
targets = []
[component.gate.build]
command = ["one", "two"]
workdir = "components/gate"
watch = ["src/**"]
[component.gate.tool.other]
anything = true
[component.gate.dependencies]
"penstock:validation/validation@0.1.0" = { component = "validation" }
"penstock:inference@0.1.0" = { component = "inference", inherit_configuration = ["files", "environment"] }
"penstock:adapter/adapter" = { path = "build/adapter.wasm", export = "other:adapter/adapter@1.0.0", inherit_configuration = true }

[component.validation]
source = "build/validation.wasm"
build.command = "make"
[component.inference]
source = "build/inference.wasm"
"#;

fn parse(text: &str) -> Result<Manifest, Vec<Finding>> {
    Manifest::parse(Path::new("app/spin.toml"), text)
}

/// The smallest manifest, with lines put into its component and after it.
fn small(component: &str, after: &str) -> String {
    format!(
        "spin_manifest_version = 2\n[application]\nname = \"a\"\n\
         [[trigger.http]]\nroute = \"/...\"\ncomponent = \"gate\"\n\
         [component.gate]\nsource = \"gate.wasm\"\n{component}\n{after}\n"
    )
}

/// Asserts that a text has exactly one finding, on this line, that says this.
#[track_caller]
fn refused(text: &str, line: usize, said: &str) {
    let findings = parse(text).expect_err(text);
    let shown: Vec<String> = findings.iter().map(Finding::to_string).collect();
    let errors: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .collect();
    assert_eq!(errors.len(), 1, "{text}\n{shown:#?}");
    let whole = errors[0].to_string();
    assert!(whole.contains(said), "expected `{said}` in\n{whole}");
    assert_eq!(errors[0].line, Some(line), "{whole}");
    assert!(
        errors[0].column.is_some() && !errors[0].remedy.is_empty(),
        "{whole}"
    );
}

#[test]
fn a_manifest_with_every_served_field_is_read_whole() {
    let manifest = parse(WHOLE).expect("a manifest");
    assert_eq!(manifest.warnings, []);
    assert_eq!(manifest.application.name, "penstock");
    assert_eq!(manifest.root, Path::new("app"));
    let gate = &manifest.components["gate"];
    assert_eq!(gate.source, Path::new("app/build/gate.wasm"));
    assert_eq!((gate.place.line, gate.source_place.line), (30, 32));
    assert_eq!(gate.environment["LEVEL"], "info");
    assert_eq!(gate.variables["where"], "{{ region }}-{{token}}");
    assert_eq!(gate.files.len(), 2);
    assert_eq!(gate.exclude_files, ["assets/secret"]);
    assert!(manifest.variables["token"].secret);
    assert_eq!(
        manifest.variables["region"].default.as_deref(),
        Some("here")
    );
    let [validation, inference, adapter] = gate.dependencies.as_slice() else {
        panic!("{:?}", gate.dependencies)
    };
    assert_eq!(
        validation.provider,
        Provider::Component("validation".into())
    );
    assert_eq!(validation.inherit, Inherit::Nothing);
    assert_eq!(
        validation.name.to_string(),
        "penstock:validation/validation@0.1.0"
    );
    assert!(inference.inherit.allows(Capability::Files));
    assert!(!inference.inherit.allows(Capability::KeyValueStores));
    assert_eq!(
        adapter.provider,
        Provider::File("app/build/adapter.wasm".into())
    );
    assert_eq!(
        adapter.export.as_deref(),
        Some("other:adapter/adapter@1.0.0")
    );
    assert_eq!(adapter.inherit, Inherit::Everything);
    assert_eq!(
        manifest.provider_path(validation),
        Some(Path::new("app/build/validation.wasm"))
    );
}

#[test]
fn the_exact_route_wins_and_then_the_longest() {
    let manifest = parse(
        "spin_manifest_version = 2\n[application]\nname = \"a\"\n\
         [trigger]\nhttp = [{ route = \"/...\", component = \"all\" }, { route = \"/v2/...\", component = \"v2\" },\n\
         { route = \"/v2/models/...\", component = \"models\" }, { route = \"/v2/models\", component = \"list\" },\n\
         { route = { private = true }, component = \"hidden\" }]\n\
         [component]\nall.source = \"a\"\nv2.source = \"a\"\nmodels.source = \"a\"\nlist.source = \"a\"\nhidden.source = \"a\"\n",
    )
    .expect("a manifest");
    for (path, component) in [
        ("/", "all"),
        ("/v2", "v2"),
        ("/v2/", "v2"),
        ("/v2x", "all"),
        ("/v2/health", "v2"),
        ("/v2/models", "list"),
        ("/v2/models/", "list"),
        ("/v2/models/cls", "models"),
        ("/v2/modelsx", "v2"),
    ] {
        assert_eq!(manifest.route(path), Some(component), "{path}");
    }
    let narrow = small("", "").replace("/...", "/only");
    let narrow = parse(&narrow).expect("a manifest");
    assert_eq!(narrow.route("/only"), Some("gate"));
    assert_eq!(narrow.route("/only/this"), None);
}

#[test]
#[rustfmt::skip] // One case a line.
fn an_unknown_field_is_an_error_with_its_line_and_what_was_meant() {
    for (text, line, said) in [
        (small("enviroment = {}", ""), 9, "did you mean `environment`?"),
        (small("colour = 1", ""), 9, "the fields here are `source`"),
        (small("", "[variable]"), 10, "did you mean `variables`?"),
        (small("", "[components.x]\nsource = \"x\""), 10, "did you mean `component`?"),
        (small("", "[variables]\nx = { defualt = \"1\", required = true }"), 11, "did you mean `default`?"),
        (small("build = { comand = \"x\" }", ""), 9, "did you mean `command`?"),
        (small("files = [{ source = \"a\", destination = \"/a\", mode = 1 }]", ""), 9, "unknown field `mode`"),
        (small("", "[component.gate.dependencies]\n\"a:b/c\" = { path = \"x\", inherit = true }"), 11, "unknown field `inherit`"),
        (small("", "").replace("route =", "id = \"x\"\nrout = 1\nroute ="), 6, "did you mean `route`?"),
        (small("", "").replace("name =", "nmae = \"x\"\nname ="), 3, "did you mean `name`?"),
    ] {
        refused(&text, line, said);
    }
}

#[test]
#[rustfmt::skip] // One case a line.
fn a_wrong_type_is_an_error_with_its_line() {
    for (text, line, said) in [
        (small("environment = 3", ""), 9, "is an integer; a table was expected"),
        (small("environment = { A = 3 }", ""), 9, "is an integer; a string was expected"),
        (small("files = \"x\"", ""), 9, "an array was expected"),
        (small("files = [1]", ""), 9, "was expected"),
        (small("description = []", ""), 9, "is an array; a string was expected"),
        (small("targets = \"x\"", ""), 9, "an array was expected"),
        (small("tool = { x = 1 }", ""), 9, "a table was expected"),
        (small("build = \"x\"", ""), 9, "a table was expected"),
        (small("dependencies_inherit_configuration = \"yes\"", ""), 9, "`true` or `false`"),
        (small("dependencies = []", ""), 9, "a table was expected"),
        (small("", "[component.gate.dependencies]\n\"a:b/c\" = 1"), 11, "was expected"),
        (small("", "[component.gate.dependencies]\n\"a:b/c\" = { path = \"x\", inherit_configuration = 1 }"), 11, "array of names"),
        (small("", "[variables]\nx = \"1\""), 11, "a table was expected"),
        (small("", "").replace("\"gate.wasm\"", "7"), 8, "a path in quotes"),
        (small("", "").replace("name = \"a\"", "name = 1"), 3, "a string was expected"),
        (small("", "").replace("\"/...\"", "5"), 5, "a path such as"),
        (small("", "").replace("[[trigger.http]]", "[trigger.http]"), 4, "with two brackets"),
    ] {
        refused(&text, line, said);
    }
}

#[test]
#[rustfmt::skip] // One case a line.
fn features_of_spin_that_this_host_lacks_are_named() {
    let dependency = |form: &str| {
        small(
            "",
            &format!("[component.gate.dependencies]\n\"a:b/c\" = {form}"),
        )
    };
    for (text, line, said) in [
        (small("ai_models = [\"llama2-chat\"]", ""), 9, "`ai_models`"),
        (small("sqlite_databases = [\"default\"]", ""), 9, "`sqlite_databases`"),
        (small("allowed_outbound_hosts = [\"https://*\"]", ""), 9, "`allowed_outbound_hosts`"),
        (small("allowed_http_hosts = [\"x\"]", ""), 9, "`allowed_http_hosts`"),
        (small("profile = { debug = { source = \"x\" } }", ""), 9, "`profile`"),
        (small("", "").replace("\"gate.wasm\"", "{ url = \"x\", digest = \"y\" }"), 8, "a URL or a registry"),
        (small("", "[[trigger.redis]]\nchannel = \"x\""), 10, "kind `redis`"),
        (small("", "[application.trigger.redis]\naddress = \"x\""), 10, "[application.trigger.redis]"),
        (small("", "").replace("component = \"gate\"", "component = { source = \"x\" }"), 6, "inside its trigger"),
        (small("", "").replace("route =", "executor = { type = \"wagi\" }\nroute ="), 5, "executor `wagi`"),
        (small("", "").replace("component = \"gate\"", "static_response = { body = \"x\" }"), 6, "`static_response`"),
        (small("", "").replace("/...", "/:model/..."), 5, "part `:model`"),
        (dependency("\"1.0\""), 11, "a version to fetch"),
        (dependency("{ version = \"1.0\", registry = \"r\" }"), 11, "not served by this host yet"),
        (dependency("{ url = \"x\", digest = \"y\" }"), 11, "not served by this host yet"),
    ] {
        refused(&text, line, said);
    }
}

#[test]
fn a_native_file_takes_the_place_of_the_source_and_inherits_nothing() {
    let text = small(
        "",
        "[component.gate.dependencies]\n\"a:b/c\" = { component = \"nn\", inherit_configuration = [\"files\"] }\n\
         [component.nn]\nsource = \"portable.wasm\"\n[component.nn.tool.penstock]\nnative = \"native.wasm\"",
    );
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spin.toml");
    std::fs::write(&path, text).expect("written");
    for file in ["gate.wasm", "native.wasm"] {
        std::fs::write(dir.path().join(file), "").expect("written");
    }
    let in_wasm = Serving {
        nn: Nn::Component,
        ..Serving::default()
    };
    let native = Manifest::load(&path, Serving::default()).expect("the native files are there");
    assert_eq!(
        native.components["nn"].source,
        dir.path().join("native.wasm")
    );
    assert_eq!(
        native.components["gate"].dependencies[0].inherit,
        Inherit::Nothing
    );
    let findings = Manifest::load(&path, in_wasm).expect_err("the source is not there");
    assert!(
        findings[0].message.contains("portable.wasm"),
        "{}",
        findings[0]
    );
    std::fs::write(dir.path().join("portable.wasm"), "").expect("written");
    let portable = Manifest::load(&path, in_wasm).expect("all there");
    assert_eq!(
        portable.components["nn"].source,
        dir.path().join("portable.wasm")
    );
    assert!(
        portable.components["gate"].dependencies[0]
            .inherit
            .allows(Capability::Files)
    );
}

#[test]
fn a_direct_file_takes_the_place_of_the_source_if_the_host_calls_that_entry_point() {
    let text = small(
        "",
        "[component.gate.tool.penstock]\ndirect = \"direct.wasm\"",
    );
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spin.toml");
    std::fs::write(&path, text).expect("written");
    let through = |entry_point| {
        let serving = Serving {
            entry_point,
            ..Serving::default()
        };
        Manifest::load(&path, serving)
    };
    for (kind, file) in [
        (EntryPointKind::Direct, "direct.wasm"),
        (EntryPointKind::Http, "gate.wasm"),
    ] {
        let findings = through(kind).expect_err("the file is not there");
        assert_eq!(findings.len(), 1, "the other file is not needed");
        assert!(findings[0].message.contains(file), "{}", findings[0]);
        std::fs::write(dir.path().join(file), "").expect("written");
        let manifest = through(kind).expect("the file is there");
        assert_eq!(manifest.components["gate"].source, dir.path().join(file));
    }
}

#[test]
fn labels_are_granted_as_in_spin_and_in_a_table_spin_does_not_read() {
    let manifest = parse(&small(
        "key_value_stores = [\"default\"]",
        "[component.gate.tool.penstock]\nkey_value_stores = [\"counters\", \"default\"]",
    ))
    .expect("a manifest");
    let labels: Vec<(&str, usize)> = manifest.components["gate"]
        .key_value_stores
        .iter()
        .map(|label| (label.name.as_str(), label.place.line))
        .collect();
    assert_eq!(labels, [("default", 9), ("counters", 11), ("default", 11)]);
}

#[test]
#[rustfmt::skip] // One case a line.
fn a_contradiction_is_refused_where_it_stands() {
    let dependencies =
        |lines: &str| small("", &format!("[component.gate.dependencies]\n{lines}"));
    for (text, line, said) in [
        (small("", "").replace("= \"gate\"", "= \"gaet\""), 6, "did you mean `gate`?"),
        (dependencies("\"a:b/c\" = { component = \"gat\" }"), 11, "did you mean `gate`?"),
        (dependencies("\"a:b/c\" = { component = \"gate\" }"), 10, "may have no `dependencies` of its own"),
        (dependencies("\"a:b/c\" = { component = \"x\" }\n[component.x]\nsource = \"x\"\nenvironment = { A = \"1\" }"), 14, "move it to [component.gate]"),
        (dependencies("\"a:b/c\" = { component = \"x\" }\n[component.x]\nsource = \"x\"\nfiles = [\"x\"]"), 14, "may have no `files` of its own"),
        (dependencies("\"a:b/c\" = { component = \"x\" }\n[component.x]\nsource = \"x\"\nkey_value_stores = [\"default\"]"), 14, "may have no `key_value_stores` of its own"),
        (dependencies("\"a:b/c\" = { component = \"x\" }\n[component.x]\nsource = \"x\"\ntool.penstock.key_value_stores = [\"counters\"]"), 14, "may have no `tool.penstock.key_value_stores` of its own"),
        (small("key_value_stores = [\"\"]", ""), 9, "is empty"),
        (small("key_value_stores = \"default\"", ""), 9, "an array of strings"),
        (small("", "[component.gate.tool.penstock]\nkey_value_store = [\"counters\"]"), 11, "did you mean `key_value_stores`?"),
        (dependencies("\"a:b/c\" = { path = \"x\", component = \"gate\" }"), 11, "keep one of the two"),
        (dependencies("\"a:b/c\" = {}"), 11, "names neither a component nor a path"),
        (dependencies("\"a:b\" = { path = \"x\", export = \"y\" }"), 11, "whole package"),
        (dependencies("\"a:b/c@1\" = { path = \"x\" }"), 11, "is not a version"),
        (dependencies("\"a/c\" = { path = \"x\" }"), 11, "has no namespace"),
        (dependencies("\"a:B_/c\" = { path = \"x\" }"), 11, "names no interface"),
        (dependencies("\"a:b/c@0.1.0\" = { path = \"x\" }\n\"a:b/c@0.1.2\" = { path = \"x\" }"), 12, "the same import"),
        (dependencies("\"a:b/c\" = { path = \"x\", inherit_configuration = [\"file\"] }"), 11, "did you mean `files`?"),
        (small("dependencies_inherit_configuration = true", "[component.gate.dependencies]\n\"a:b/c\" = { path = \"x\", inherit_configuration = true }"), 11, "keep one of the two"),
        (small("variables = { a = \"{{ x }}\" }", ""), 9, "there is no variable `x`"),
        (small("variables = { a = \"{{ x\" }", ""), 9, "has no `}}`"),
        (small("variables = { A = \"x\" }", ""), 9, "lower_snake_case"),
        (small("environment = { \"A=B\" = \"x\" }", ""), 9, "environment variable"),
        (small("", "[variables]\nx = {}"), 11, "neither a default"),
        (small("", "[variables]\nx = { required = true, default = \"\" }"), 11, "keep one of the two"),
        (small("", "[component.a_b]\nsource = \"x\""), 10, "kebab-case"),
        (small("", "").replace("source = \"gate.wasm\"", ""), 7, "has no `source`"),
        (small("", "").replace("\"gate.wasm\"", "\"\""), 8, "is empty"),
        (small("", "").replace("= 2", "= \"1\""), 1, "is not the number 2"),
        (small("", "").replace("spin_manifest_version = 2", ""), 1, "is missing"),
        (small("", "").replace("name = \"a\"", ""), 2, "has no name"),
        (small("", "").replace("route = \"/...\"", ""), 4, "has no `route`"),
        (small("", "").replace("\"/...\"", "\"x\""), 5, "write `/x`"),
        (small("", "").replace("/...", "/a?b"), 5, "which a path cannot contain"),
        (small("", "").replace("\"/...\"", "{ private = false }"), 5, "private = true"),
        (small("", "[[trigger.http]]\nroute = \"/*\"\ncomponent = \"gate\""), 10, "are the same"),
    ] {
        refused(&text, line, said);
    }
}

#[test]
fn an_empty_manifest_says_all_that_is_missing() {
    let findings = parse("").expect_err("nothing");
    let all: String = findings.iter().map(Finding::to_string).collect();
    for missing in [
        "spin_manifest_version",
        "[application]",
        "no trigger",
        "no component",
    ] {
        assert!(all.contains(missing), "{missing} in {all}");
    }
    assert_eq!(findings.len(), 4);
}

#[test]
fn all_that_is_wrong_is_found_in_the_order_of_the_file() {
    let findings = parse(&small("a = 1\nb = 2", "[c]")).expect_err("wrong");
    let lines: Vec<Option<usize>> = findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [Some(9), Some(10), Some(11)]);
    assert_eq!(findings[0].column, Some(1));
}

#[test]
fn broken_syntax_is_reported_with_its_line_and_nothing_else_is() {
    for (text, line) in [
        ("a = \n", 1),
        ("[application]\nname = \"a\"\nname = \"b\"\n", 3),
        ("x = 1\n[[trigger.http]\n", 2),
    ] {
        let findings = parse(text).expect_err(text);
        assert_eq!(findings[0].line, Some(line), "{text}: {}", findings[0]);
        assert!(
            findings.iter().all(|f| f.message.contains("not TOML")),
            "{findings:?}"
        );
    }
}

#[test]
fn a_part_that_spin_would_refuse_or_that_is_unused_is_a_warning() {
    let text = small(
        "",
        "[component.gate.dependencies]\n\"a:b/c@0.1.0\" = { path = \"x\" }\n\"a:b/d@0.1.0\" = { path = \"y\" }\n\
         [component.spare]\nsource = \"x\"",
    );
    let manifest = parse(&text).expect("a manifest");
    let warnings: Vec<(Option<usize>, Severity)> = manifest
        .warnings
        .iter()
        .map(|warning| (warning.line, warning.severity))
        .collect();
    assert_eq!(
        warnings,
        [(Some(12), Severity::Warning), (Some(13), Severity::Warning)]
    );
    assert!(manifest.warnings[0].message.contains("Spin refuses"));
    assert!(manifest.warnings[1].message.contains("used by no trigger"));
}

#[test]
fn files_the_manifest_names_must_exist() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spin.toml");
    let text = small(
        "",
        "[component.gate.dependencies]\n\"a:b/c\" = { path = \"c.wasm\" }",
    );
    std::fs::write(&path, &text).expect("written");
    let findings = Manifest::load(&path, Serving::default()).expect_err("no files");
    let lines: Vec<Option<usize>> = findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [Some(8), Some(11)]);
    assert!(
        findings[0].to_string().contains("scripts/build"),
        "{}",
        findings[0]
    );
    std::fs::write(dir.path().join("gate.wasm"), "").expect("written");
    std::fs::create_dir(dir.path().join("c.wasm")).expect("made");
    let findings = Manifest::load(&path, Serving::default()).expect_err("not a file");
    assert!(
        findings[0].message.contains("is not a file"),
        "{}",
        findings[0]
    );
    std::fs::remove_dir(dir.path().join("c.wasm")).expect("removed");
    std::fs::write(dir.path().join("c.wasm"), "").expect("written");
    Manifest::load(&path, Serving::default()).expect("all there");
}

#[test]
fn a_manifest_that_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("spin.toml");
    let said = |path: &Path| {
        Manifest::load(path, Serving::default()).expect_err("unreadable")[0].to_string()
    };
    assert!(said(&path).contains("cannot be read"));
    assert!(said(dir.path()).contains("is not a file"));
    std::fs::write(&path, b"# one\n# tw\xff\n").expect("written");
    assert!(said(&path).contains("spin.toml:2: error: the manifest is not UTF-8"));
    std::fs::write(&path, vec![b'#'; MAX_MANIFEST_BYTES as usize + 1]).expect("written");
    assert!(said(&path).contains("at most"));
}

#[test]
fn dependency_names_are_read_in_all_their_forms() {
    for name in [
        "a:b/c@0.1.0",
        "a:b/c",
        "a:b@1.0.0-rc.1",
        "a:b",
        "plain-name",
    ] {
        let parsed = DependencyName::parse(name).expect(name);
        assert_eq!(parsed.to_string(), name);
    }
    for name in ["", "a:", ":b", "a:b/", "a:b@", "a:b/c/d", "a--b", "1a:b"] {
        assert!(DependencyName::parse(name).is_err(), "{name}");
    }
}

#[test]
fn versions_are_compatible_as_the_component_model_has_it() {
    let check = |a: &str, b: &str| compatible(&a.parse().expect(a), &b.parse().expect(b));
    assert!(check("0.2.3", "0.2.6"));
    assert!(check("1.2.3", "1.9.0"));
    assert!(!check("0.2.3", "0.3.3"));
    assert!(!check("0.0.1", "0.0.2"));
    assert!(!check("0.2.0-draft2", "0.2.0"));
    assert!(check("0.2.0-draft2", "0.2.0-draft2"));
}
