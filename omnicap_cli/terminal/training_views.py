"""What `omnicap train` and `omnicap export` show: plans, outcomes and models. It writes nothing itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from omnicap_cli.core.files.words import gigabytes, printable
from omnicap_cli.terminal.console import Console
from omnicap_cli.terminal.views import rows_as_lines, show_report

if TYPE_CHECKING:
    from omnicap_cli.training.export.model_folder import ModelExportReport
    from omnicap_cli.training.run import TrainPlan, TrainReport


def show_train_plan(console: Console, plan: TrainPlan, *, as_json: bool) -> None:
    """What a run would do, for `--dry-run`."""
    show_report(console, asdict(plan), plan_lines(plan), as_json=as_json)


def show_train_report(console: Console, report: TrainReport, *, as_json: bool) -> None:
    """How a run ended."""
    rows = [("steps", f"{report.num_steps:,}"), ("checkpoint", printable(report.checkpoint))]
    for name, loss in (("loss", report.loss), ("held-out loss", report.eval_loss)):
        if loss is not None:
            rows.append((name, f"{loss:.4f}"))
    show_report(console, asdict(report), rows_as_lines(rows), as_json=as_json)


def show_model_export(console: Console, report: ModelExportReport, *, as_json: bool) -> None:
    """The model that `omnicap export` wrote."""
    rows = [("model", printable(report.output)), ("checkpoint", printable(report.checkpoint))]
    if report.base:
        rows.append(("merged into", printable(report.base)))
    files = "1 file" if report.num_weight_files == 1 else f"{report.num_weight_files:,} files"
    rows.append(("weights", f"{report.num_parameters:,} parameters in {report.dtype}, {files}"))
    rows.append(("size", gigabytes(report.num_bytes)))
    show_report(console, asdict(report), rows_as_lines(rows), as_json=as_json)


def plan_lines(plan: TrainPlan) -> list[str]:
    """What a run would do, a line for each set of data and each figure."""
    rows = []
    for each in plan.sets:
        long = f", {each.num_too_long:,} longer than data.max_length" if each.num_too_long else ""
        of_all = f"{each.num_samples:,} samples of {each.num_records:,} records"
        rows.append((printable(each.label), f"{of_all}, {each.num_tokens:,} tokens{long}"))
    rows += [
        ("samples", f"{plan.num_samples:,}, {plan.num_tokens:,} tokens, all epochs together"),
        ("batches", f"{plan.num_batches:,} of {plan.num_rows:,} sequences, {plan.fill:.1%} full"),
        ("steps", f"{plan.num_steps:,}" + (f", in {plan.num_processes} processes" if plan.num_processes > 1 else "")),
    ]
    rows += [(part, f"{learnt:,} of {number:,} parameters learn") for part, (number, learnt) in plan.parameters.items()]
    rows.append(("memory", f"{gigabytes(plan.state_bytes)} for weights, gradients and optimiser; activations on top"))
    rows.append(("output", printable(plan.output)))
    if plan.resumed_from:
        rows.append(("goes on from", plan.resumed_from))
    return rows_as_lines(rows)
