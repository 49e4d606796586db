"""Compiles `redis_consumer.processing.kernels` where there is a C compiler; without one the package is pure Python."""

from __future__ import annotations

import shutil
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

MODULE = "redis_consumer.processing.kernels.compiled"
OPTIONS = {
    # No fused multiply and add, and no other liberties: results must be those of numpy, to the last bit.
    "unix": ["-O3", "-ffp-contract=off", "-fno-fast-math", "-g0", "-w"],
    "msvc": ["/O2", "/fp:precise"],
}


class CompiledKernels(BuildHookInterface[Any]):
    """Puts the compiled module into the wheel, or into the source tree for an editable install."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before the files of a wheel are gathered.  What is wrong in the source itself ends the build."""
        place = Path("src", *MODULE.split(".")).parent
        here = Path(self.root, place, f"compiled{sysconfig.get_config_var('EXT_SUFFIX')}")
        if version == "editable":
            here.unlink(missing_ok=True)  # it would be preferred, whatever it was made from
        self._folder = Path(tempfile.mkdtemp(prefix="kernels-"))
        try:
            built = compiled(Path(self.root), self._folder)
        except (BaseError, CCompilerError) as error:
            self.app.display_warning(f"The array functions are not compiled, they will be slower: {error}")
            return
        except BaseException:
            self.finalize(version, build_data, "")
            raise
        if version == "editable":
            shutil.copy2(built, here)
            return
        build_data.update(pure_python=False, infer_tag=True)
        build_data["force_include"][str(built)] = str(Path(*place.parts[1:], built.name))

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact: str) -> None:
        """Remove what was built beside the wheel."""
        shutil.rmtree(self._folder, ignore_errors=True)


def compiled(root: Path, folder: Path) -> Path:
    """Compile the module into `folder`, and return its path; setuptools' errors where there is no compiler that can."""
    source = str(root.joinpath("src", *MODULE.split(".")).with_suffix(".pyx"))
    extensions = cythonize([Extension(MODULE, [source])], build_dir=str(folder / "c"), quiet=True)
    command = Build(Distribution({"ext_modules": extensions}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(MODULE))


class Build(build_ext):
    """setuptools' own, with options that depend on the compiler."""

    def build_extension(self, ext: Extension) -> None:
        """Compile one module."""
        ext.extra_compile_args = OPTIONS.get(self.compiler.compiler_type, [])
        super().build_extension(ext)
