//! `fermyon:spin/variables@2.0.0`, by which components read their variables.

use penstock_app::Variables;
use wasmtime::component::{HasData, Linker};

/// The interface, as components import it.
pub const INTERFACE: &str = "fermyon:spin/variables@2.0.0";

/// Longest name of a guest that a message repeats.
const MAX_SHOWN_CHARS: usize = 64;

#[allow(missing_docs)]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package penstock:host-side;
            world configured { import fermyon:spin/variables@2.0.0; }
        ",
        path: ["../../wit/deps/spin"],
        world: "penstock:host-side/configured",
    });
}

use bindings::fermyon::spin::variables;

impl variables::Host for &Variables {
    fn get(&mut self, name: String) -> Result<String, variables::Error> {
        let shown = || name.chars().take(MAX_SHOWN_CHARS).collect::<String>();
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(variables::Error::InvalidName(shown()));
        }
        match Variables::get(self, &name) {
            Some(value) => Ok(value.to_owned()),
            None => Err(variables::Error::Undefined(shown())),
        }
    }
}

/// Lets the generated code reach an instance's variables.
struct HasVariables;

impl HasData for HasVariables {
    type Data<'a> = &'a Variables;
}

/// Adds the interface to a linker. `view` finds the variables in an instance's state.
pub fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> &Variables,
) -> wasmtime::Result<()> {
    variables::add_to_linker::<_, HasVariables>(linker, view)
}
