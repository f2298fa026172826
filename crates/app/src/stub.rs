//! Provides empty answers to a component that inherits nothing.
//!
//! A Rust component for `wasm32-wasip2` always imports `wasi:cli/environment` and `wasi:filesystem/preopens`, even if
//! it uses no variable and no file. Leaving them open would give every dependency the environment and the directories
//! of its parent. Refusing them would refuse every such component. So a tiny component inside the composed one
//! satisfies each import: no variables, no arguments, no working directory, no directories. It is generated for the
//! imported version, because the name of the export carries it.

use wasm_encoder::{
    Alias, CanonicalFunctionSection, CanonicalOption, CodeSection, Component,
    ComponentAliasSection, ComponentExportKind, ComponentExportSection, ComponentImportSection,
    ComponentInstanceSection, ComponentTypeRef, ComponentTypeSection, ComponentValType, ExportKind,
    ExportSection, Function, FunctionSection, InstanceSection, InstanceType, MemorySection,
    MemoryType, Module, ModuleArg, ModuleSection, PrimitiveValType, TypeBounds, TypeSection,
    ValType,
};

/// Returns the component that stands in for an import, if there is one. `import` is the name of the import. `imports` are
/// the names of all imports of the component that has it.
pub(super) fn empty<'i>(
    import: &str,
    mut imports: impl Iterator<Item = &'i str>,
) -> Option<Vec<u8>> {
    let (interface, version) = match import.split_once('@') {
        Some((interface, version)) => (interface, Some(version)),
        None => (import, None),
    };
    match interface {
        "wasi:cli/environment" => Some(environment(import)),
        "wasi:filesystem/preopens" => {
            // The directories that it does not list would be of this type, so it must be the same one.
            let types = imports.find(|other| {
                let (other, its_version) = match other.split_once('@') {
                    Some((other, its_version)) => (other, Some(its_version)),
                    None => (*other, None),
                };
                other == "wasi:filesystem/types" && its_version == version
            })?;
            Some(preopens(import, types))
        }
        _ => None,
    }
}

/// Makes an empty `wasi:cli/environment`. It has the functions of WASI 0.2 and of 0.3: an instance may offer more than is
/// requested.
fn environment(import: &str) -> Vec<u8> {
    let string = ComponentValType::Primitive(PrimitiveValType::String);
    let mut component = silent_core();
    let mut types = ComponentTypeSection::new();
    types.defined_type().tuple([string, string]); // type 0
    types.defined_type().list(ComponentValType::Type(0)); // type 1
    types.defined_type().list(string); // type 2
    types.defined_type().option(string); // type 3
    for result in [1, 2, 3] {
        types
            .function()
            .params([] as [(&str, ComponentValType); 0])
            .result(Some(ComponentValType::Type(result))); // types 4, 5 and 6
    }
    component.section(&types);
    lift(&mut component, &[4, 5, 6]);
    let exports = [
        ("get-environment", 0),
        ("get-arguments", 1),
        ("initial-cwd", 2),
        ("get-initial-cwd", 2),
    ]
    .map(|(name, function)| (name, ComponentExportKind::Func, function));
    let mut instances = ComponentInstanceSection::new();
    instances.export_items(exports);
    component.section(&instances);
    export_instance(&mut component, import, 0);
    component.finish()
}

/// Makes an empty `wasi:filesystem/preopens`: no directory is visible.
fn preopens(import: &str, types_import: &str) -> Vec<u8> {
    let mut component = silent_core();
    let mut descriptor = InstanceType::new();
    descriptor.export(
        "descriptor",
        ComponentTypeRef::Type(TypeBounds::SubResource),
    );
    let mut types = ComponentTypeSection::new();
    types.instance(&descriptor); // type 0
    component.section(&types);
    let mut imports = ComponentImportSection::new();
    imports.import(types_import, ComponentTypeRef::Instance(0)); // instance 0
    component.section(&imports);
    let mut aliases = ComponentAliasSection::new();
    aliases.alias(Alias::InstanceExport {
        instance: 0,
        kind: ComponentExportKind::Type,
        name: "descriptor",
    }); // type 1
    component.section(&aliases);
    let mut types = ComponentTypeSection::new();
    types.defined_type().own(1); // type 2
    types.defined_type().tuple([
        ComponentValType::Type(2),
        ComponentValType::Primitive(PrimitiveValType::String),
    ]); // type 3
    types.defined_type().list(ComponentValType::Type(3)); // type 4
    types
        .function()
        .params([] as [(&str, ComponentValType); 0])
        .result(Some(ComponentValType::Type(4))); // type 5
    component.section(&types);
    lift(&mut component, &[5]);
    let mut instances = ComponentInstanceSection::new();
    instances.export_items([
        ("descriptor", ComponentExportKind::Type, 1),
        ("get-directories", ComponentExportKind::Func, 0),
    ]); // instance 1
    component.section(&instances);
    export_instance(&mut component, import, 1);
    component.finish()
}

/// A component with one core function and a memory of zeros. The function returns the address of the first zero, which
/// reads as the empty list and as no value for all types.
fn silent_core() -> Component {
    let mut types = TypeSection::new();
    types.ty().function([], [ValType::I32]);
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 1,
        maximum: Some(1),
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0);
    exports.export("nothing", ExportKind::Func, 0);
    let mut nothing = Function::new([]);
    nothing.instructions().i32_const(0).end();
    let mut code = CodeSection::new();
    code.function(&nothing);
    let mut module = Module::new();
    module
        .section(&types)
        .section(&functions)
        .section(&memories)
        .section(&exports)
        .section(&code);

    let mut component = Component::new();
    component.section(&ModuleSection(&module));
    let mut instances = InstanceSection::new();
    instances.instantiate(0, [] as [(&str, ModuleArg); 0]);
    component.section(&instances);
    let mut aliases = ComponentAliasSection::new();
    aliases.alias(Alias::CoreInstanceExport {
        instance: 0,
        kind: ExportKind::Memory,
        name: "memory",
    });
    aliases.alias(Alias::CoreInstanceExport {
        instance: 0,
        kind: ExportKind::Func,
        name: "nothing",
    });
    component.section(&aliases);
    component
}

/// Makes a component function of each type out of the one core function.
fn lift(component: &mut Component, types: &[u32]) {
    let mut functions = CanonicalFunctionSection::new();
    for ty in types {
        functions.lift(0, *ty, [CanonicalOption::UTF8, CanonicalOption::Memory(0)]);
    }
    component.section(&functions);
}

fn export_instance(component: &mut Component, name: &str, instance: u32) {
    let mut exports = ComponentExportSection::new();
    exports.export(name, ComponentExportKind::Instance, instance, None);
    component.section(&exports);
}
