from .cli import main
from .terminal import run_main

run_main(main)
