//! `penstock check`: finds everything that can be wrong before the first request, each with file, line and remedy:
//! manifest, composition, policy, stores, and every model's contract against its graph.

use crate::AppOptions;
use crate::settings::{Compare, ModelsSettings, Settings};
use crate::{access, prepare, webhooks};
use penstock_app::{
    self as app, EntryPointKind, Finding, Manifest, Nn, RuntimeConfig, Serving, Severity,
    SourceLocation,
};
use penstock_nn::agreement::Agreement;
use penstock_nn::repository::{EventKind, LOAD_GIVEN_UP};
use penstock_nn::{Repository, State};
use penstock_server::tls;
use penstock_tensor::Contract;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Checks the application and prints the findings. It fails if there is an error, and not if there are only warnings.
pub fn run(options: &AppOptions, compare: bool) -> ExitCode {
    let findings = findings(options, compare);
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .count();
    let warnings = findings.len() - errors;
    println!("{errors} errors, {warnings} warnings");
    crate::ending::with(if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns all findings, in the order: policy, certificate, webhooks, runtime configuration, manifest, composition, stores,
/// models. With `compare`, each model is also compared with a second backend.
pub fn findings(options: &AppOptions, compare: bool) -> Vec<Finding> {
    let (settings, mut findings) = match Settings::load(&options.policy) {
        Ok(settings) => (settings, Vec::new()),
        Err(found) => (Settings::default(), found),
    };
    findings.extend(tls::findings(&settings.tls, &options.policy));
    findings.extend(webhooks::findings(&settings, &options.policy));
    findings.extend(access::warnings(&settings, &options.policy, None));
    if let Some(admin) = &settings.admin
        && let Some(warning) = penstock_admin::exposed(admin.listen())
    {
        findings.push(Finding::warning(
            &options.policy,
            None,
            warning,
            "listen on 127.0.0.1, and reach it from elsewhere through a tunnel",
        ));
    }
    let config = match RuntimeConfig::load(options.runtime_config.as_deref(), &options.state_dir())
    {
        Ok(config) => Some(config),
        Err(found) => {
            findings.extend(found);
            None
        }
    };
    let mut mounts = Vec::new();
    match Manifest::load(&options.app, Serving::default()) {
        Err(found) => findings.extend(found),
        Ok(manifest) => {
            findings.extend(manifest.warnings.iter().cloned());
            match prepare::root_component(&manifest) {
                Err(error) => findings.push(Finding::error(
                    &options.app,
                    None,
                    error.to_string(),
                    "add a trigger with the route \"/...\"",
                )),
                Ok(root) => {
                    match app::compose(&manifest, root, prepare::provided) {
                        Ok(composed) => findings.extend(composed.warnings),
                        Err(found) => findings.extend(found),
                    }
                    findings.extend(as_elsewhere(options, &manifest, root));
                    let environment = &penstock_app::secrets::environment;
                    findings.extend(penstock_app::variables::findings(
                        &manifest,
                        root,
                        environment,
                    ));
                    if let Some(config) = &config {
                        let granted = &manifest.components[root].key_value_stores;
                        findings.extend(
                            config
                                .covers(&manifest.path, granted)
                                .err()
                                .unwrap_or_default(),
                        );
                        findings.extend(config.warnings(granted));
                    }
                    match app::visible(&manifest, root, &[prepare::POLICY_FILE]) {
                        Ok(found) => mounts = found.directories,
                        Err(found) => findings.extend(found),
                    }
                }
            }
        }
    }
    let models = prepare::models_directory(options, &mut mounts);
    let mut models_settings = settings.models;
    // Without the option, only a comparison that decides whether a model serves is worth its time.
    models_settings.compare = match (compare, models_settings.compare) {
        (true, Compare::Off) => Compare::Warn,
        (false, Compare::Warn) => Compare::Off,
        (_, asked) => asked,
    };
    let found = models_findings(options, &models, &models_settings);
    findings.extend(found);
    findings
}

/// Checks the application as a host without `wasi:nn` and without the direct entry point composes it, if some component has
/// a file for that. A missing
/// file is no error here, because this host does not need it.
fn as_elsewhere(options: &AppOptions, native: &Manifest, root: &str) -> Vec<Finding> {
    let elsewhere = Serving {
        nn: Nn::Component,
        entry_point: EntryPointKind::Http,
    };
    let portable = match Manifest::load(&options.app, elsewhere) {
        Ok(portable) => portable,
        Err(found) => {
            let warn = |finding| Finding {
                severity: Severity::Warning,
                ..finding
            };
            return found.into_iter().map(warn).collect();
        }
    };
    let mut both = (portable.components.iter()).zip(native.components.values());
    if both.all(|((_, one), other)| one.source == other.source) {
        return Vec::new();
    }
    match app::compose(&portable, root, prepare::provided) {
        Ok(composed) => composed.warnings,
        Err(found) => found,
    }
}

/// Checks all models: each contract alone, then each graph against its contract, then all of them against the memory
/// budget.
fn models_findings(options: &AppOptions, models: &Path, settings: &ModelsSettings) -> Vec<Finding> {
    let budget_bytes = settings.memory_budget_bytes;
    let backends = match prepare::backends(options) {
        Ok(backends) => backends,
        Err(error) => return vec![library_finding(options, error.message)],
    };
    // Without a budget: everything is loaded once, and then its memory is known.
    let unbounded = penstock_nn::Settings {
        memory_budget_bytes: None,
        launcher: options.launcher.clone(),
        // The findings contain the result.
        compare_later: false,
        ..settings.repository(false)
    };
    let repository = match Repository::open(models, backends, unbounded) {
        Ok(repository) => repository,
        Err(error) => {
            return vec![Finding::error(
                models,
                None,
                error.message,
                "create it, or name another with --models",
            )];
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return vec![Finding::error(
                models,
                None,
                error.to_string(),
                "free some threads",
            )];
        }
    };
    let mut events = repository.events();
    runtime.spawn(async move {
        while let Some(event) = events.recv().await {
            if matches!(event.kind, EventKind::Slow | EventKind::Noted) {
                // The findings are on standard output, so this goes to standard error.
                let (model, version) = (event.model, event.version);
                eprintln!("model {model} version {version}: {}", event.text);
            }
        }
    });
    let mut findings = Vec::new();
    runtime.block_on(repository.load_all(|report| {
        let file = models.join(&report.model).join("model.toml");
        if let State::Ready(model) = &report.state {
            findings.extend(model.agreement().and_then(|found| disagreement(&file, report.version, found)));
        }
        let State::Failed(reason) = &report.state else { return };
        if !file.exists() {
            findings.push(Finding::error(
                &file,
                None,
                reason.to_string(),
                "run `penstock init` on the graph, which writes one",
            ));
            return;
        }
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        match Contract::parse(&text) {
            Err(faults) => findings.extend(faults.into_iter().map(|fault| {
                let place = SourceLocation { line: fault.line, column: fault.column };
                Finding::error(&file, Some(place), fault.message, fault.remedy)
            })),
            Ok(_) if reason.contains(LOAD_GIVEN_UP) => findings.push(Finding::error(
                &file,
                None,
                reason.to_string(),
                "run the graph once in its runtime by itself, with the least input model.toml allows, and correct \
                 the part that does not end; or raise models.load_timeout_ms",
            )),
            Ok(_) => findings.push(Finding::error(
                &file,
                place_of_name(&text, reason),
                reason.to_string(),
                load_remedy(reason),
            )),
        }
    }));
    findings.extend(budget_findings(&repository, models, budget_bytes));
    // Models load in parallel, but people read in order.
    findings.sort_by(|a, b| (&a.file, a.line, &a.message).cmp(&(&b.file, b.line, &b.message)));
    findings
}

/// The finding about a library of a backend. The message names the library; the path that it repeats shows the option
/// that named it.
fn library_finding(options: &AppOptions, message: String) -> Finding {
    let of = |library: &Option<PathBuf>| {
        let path = library.as_ref()?;
        let named = message.contains(&*path.to_string_lossy());
        named.then(|| path.clone())
    };
    let (library, remedy) = match (of(&options.openvino), of(&options.onnxruntime)) {
        (Some(library), None) => (
            library,
            "name the library with --openvino, or run scripts/openvino to fetch it",
        ),
        (_, library) => (
            library.unwrap_or_default(),
            "name the library with --onnxruntime, or run scripts/runtime to fetch it",
        ),
    };
    Finding::error(&library, None, message, remedy)
}

/// The remedy for a load that failed. The reason itself often says more, so the remedy must not mislead.
fn load_remedy(reason: &str) -> &'static str {
    let says = |part: &str| reason.contains(part);
    if says("fails its first run") {
        "follow the message; `model.toml` may be correct"
    } else if says("is not available") || says("cannot load the graph") || says("newer than") {
        "choose a backend that reads the graph, or export the graph for this one"
    } else if says("has no model.onnx") || says("has no model.xml") || says("has no version") {
        "add the graph file"
    } else if says("not an ONNX file") || says("keeps weights in the file") {
        "replace it with a complete graph and its files"
    } else {
        "make the contract match the graph's inputs and outputs, or replace the graph"
    }
}

/// Returns the finding of a comparison with another backend.
fn disagreement(file: &Path, version: u64, found: &Agreement) -> Option<Finding> {
    let remedy = match found {
        Agreement::Differs { .. } => {
            "run the graph in its own framework on the same input to find out which backend is right"
        }
        Agreement::Unknown(_) => {
            "name more backends with --onnxruntime and --openvino; ranges in model.toml give better inputs"
        }
        Agreement::Agrees { .. } => {
            // The findings are on standard output, so this goes to standard error.
            eprintln!("{}: version {version}: {found}", file.display());
            return None;
        }
    };
    Some(Finding::warning(
        file,
        None,
        format!("version {version}: {found}"),
        remedy,
    ))
}

/// Returns the models that do not fit into the memory budget.
fn budget_findings(
    repository: &Repository,
    models: &Path,
    budget_bytes: Option<u64>,
) -> Vec<Finding> {
    let Some(budget) = budget_bytes else {
        return Vec::new();
    };
    let remedy = "raise models.memory_budget_bytes in the policy, or serve fewer models";
    let index = repository.index();
    let too_large = index.iter().filter(|entry| entry.memory_bytes > budget);
    let mut findings: Vec<Finding> = too_large
        .map(|entry| {
            let file = models.join(&entry.model).join("model.toml");
            let message = format!(
                "version {} takes {} bytes, but models.memory_budget_bytes allows {budget} for all models together",
                entry.version, entry.memory_bytes
            );
            Finding::error(&file, None, message, remedy)
        })
        .collect();
    let pinned: u64 = (index.iter().filter(|entry| entry.pinned))
        .map(|entry| entry.memory_bytes)
        .sum();
    if pinned > budget {
        let message = format!(
            "the pinned models take {pinned} bytes together, but models.memory_budget_bytes allows {budget}; they \
             are loaded anyway, and no other model is"
        );
        findings.push(Finding::error(models, None, message, remedy));
    }
    findings
}

/// Returns the line that declares the first tensor that a message names.
fn place_of_name(contract: &str, message: &str) -> Option<SourceLocation> {
    message.split('"').skip(1).step_by(2).find_map(|name| {
        let declares = |line: &str| {
            let declared = line.trim().strip_prefix("name").map(str::trim_start);
            declared
                .and_then(|l| l.strip_prefix('='))
                .is_some_and(|l| l.trim() == format!("\"{name}\""))
        };
        contract
            .lines()
            .position(declares)
            .map(|at| SourceLocation {
                line: at + 1,
                column: 1,
            })
    })
}
