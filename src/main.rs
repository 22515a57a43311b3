//! Arguments to the command line, its outcome to the exit code. Nothing else.

fn main() -> std::process::ExitCode {
    syncmesh::cli::run(std::env::args_os())
}
