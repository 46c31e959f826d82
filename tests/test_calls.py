"No call passes an argument that the installed releases of other libraries do not know: such a mistake waits for the user who has another release."

import ast, inspect
from fractions import Fraction
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import av, numpy as np, pytest

from conftest import modules

def named(func):
    "The names in `a.b.c`, or None for anything else"
    if isinstance(func, ast.Name): return [func.id]
    if isinstance(func, ast.Attribute) and (before := named(func.value)): return [*before, func.attr]

def resolved(scope, names):
    "What `names` stand for in the module `scope`, if that is another library's"
    obj = scope
    for name in names or ['']:
        obj = getattr(obj, name, None)
    return obj if (getattr(obj, '__module__', None) or '').split('.')[0] not in ('', 'fastai_seq') else None

def accepted(func):
    "The names of the arguments that `func` takes; None where it takes any, or does not say"
    try:
        params = [*inspect.signature(func).parameters.values()]
        if isinstance(func, type) and func.__init__ is not object.__init__:
            params += inspect.signature(func.__init__).parameters.values()  # a metaclass may say less
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in params): return None
    return {p.name for p in params}

def av_stubs():
    "What PyAV's functions and methods take, by their names: compiled, they do not say it themselves"
    res = {}
    for stub in Path(av.__file__).parent.rglob('*.pyi'):
        for node in ast.walk(ast.parse(stub.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.FunctionDef): continue
            args = node.args
            names = {a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]}
            any_name = {'**'} if args.kwarg else set()
            res[node.name] = res.get(node.name, set()) | names | any_name
    return res

of_av = av_stubs()

def unknown(tree, scope):
    "`(line, call, argument)` of what the installed releases do not know"
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call): continue
        names, given = named(call.func), {k.arg for k in call.keywords if k.arg}
        if not names or not given: continue
        known = accepted(func) if (func := resolved(scope, names)) is not None else None
        if names[0] == 'av' or names[-1] in ('reformat', 'add_stream', 'from_ndarray', 'seek'):
            known = of_av.get(names[-1], known)
        if known and '**' not in known: yield from ((call.lineno, '.'.join(names), a) for a in sorted(given - known))

@pytest.mark.parametrize('name', modules)
def test_the_installed_releases_know_every_argument(name):
    scope = import_module(f'fastai_seq.{name}')
    tree = ast.parse(Path(scope.__file__).read_text(encoding='utf-8'))
    assert [*unknown(tree, scope)] == []

@pytest.mark.parametrize('code, argument', [("av.open(path, metadata_errer='ignore')", 'metadata_errer'), ("scaler.reformat(frame, widht=3)", 'widht'),
    ("np.asarray(x, dtipe=int)", 'dtipe'), ("Fraction(1, denom=2)", 'denom'), ("blake2b(b'', digest_size=16)", None)])
def test_an_argument_that_none_knows_is_found(code, argument):
    scope = SimpleNamespace(av=av, np=np, Fraction=Fraction, blake2b=blake2b)
    found = [*unknown(ast.parse(code), scope)]
    assert [a for _,_,a in found] == ([argument] if argument else [])
