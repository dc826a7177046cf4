"""nox-proxy: answers NOX Energy's deprecated v1 calls from v2.

A request's life, all of it on one page in `pipeline.py`:

    identify → admit → choose an upstream → translate → send → translate back → observe

The house has three wings and a hall:

- `contract/`: WHAT the versions say. Pure.
- `policy/`: WHO may, WHEN and WHERE TO. Pure.
- `wire/`: HTTP in and out.
- `pipeline.py` joins them by the `rules.py` in force; `admission.py`, `head.py` and `translation.py` are its steps,
  `shadow.py` is what it does off the callers' path. It has two doors: `app.py` for all that ASGI brings, `direct.py`
  for whole calls on a deprecated endpoint, which come straight from `wire/direct.py`.
- `telemetry/` is what was seen of it all, `overview.py` and `page.py` show it to people.
- `parts.py` makes each part from `settings.py`, `serve.py` runs them, in `workers.py` where there are several;
  `reload.py` puts other rules in force, `news.py` hands them round.
- `cli.py` is the command line, with `cli_demo.py` and `cli_verify.py`; `verify/` judges a deployment from outside,
  `demo/` and `simulator/` are for trying it.

The laws (import-linter and `tests/test_architecture.py` hold them):

1. `contract/` and `policy/` know no HTTP library, clock, environment or file. Time is an argument.
2. Each outside library has one home.
3. A second deprecated endpoint is one new file in `contract/changes/` and one line in its list.
4. One `Exchange` record a request; metrics, log and spans only read it.
5. No middleware stack.
"""

__version__ = "0.1.0"
