"""Serve one record of the ledger, with the findings of its examination."""

from __future__ import annotations

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response

from rempart.errors import ObjectMissing
from rempart.web import sources
from rempart.web.parameters import Sequence
from rempart.web.read_models import evidence
from rempart.web.rendering import render
from rempart.web.security.access import Auditor, requires

PATH = "/ledger/{seq}"

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api")


@api.get(PATH, dependencies=[Depends(requires("read_evidence"))])
def read_record(seq: Sequence) -> evidence.Examined:
    """Return one record with findings about its position in the chain."""
    try:
        return sources.record(seq)
    except ObjectMissing as error:
        raise HTTPException(404, error.what) from error


@router.get(PATH)
def show_record(request: Request, seq: Sequence, user: Auditor) -> Response:
    return render(request, "record", current="ledger", found=read_record(seq))
