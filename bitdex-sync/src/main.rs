use std::process::ExitCode;

fn main() -> ExitCode {
    bitdex_sync::main()
}
