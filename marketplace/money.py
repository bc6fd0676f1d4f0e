"""Amounts of money: integers in base units (10⁻¹⁸ of a token) inside, decimal strings of whole tokens outside."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.conf import settings
from django.db import models
from rest_framework import serializers

from marketplace.errors import InvalidRequest

DECIMALS = 18
TOKEN = 10**DECIMALS
# What fits NUMERIC(78,0); an ERC-20 balance is at most 2²⁵⁶ − 1.
MOST = 2**256 - 1
MILLION = 1_000_000
BASIS_POINTS = 10_000


class NotAnAmount(InvalidRequest):
    code = "invalid_amount"


def parse(value: Any, *, param: str = "amount") -> int:
    """Base units of an amount such as "12.5", 12.5 or 12 tokens; never negative. Raises NotAnAmount."""
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, bool) or not isinstance(text, (str, int, float, Decimal)) or text == "":
        raise NotAnAmount(f'{param} must be a decimal number of tokens, such as "12.5".', param=param)
    if len(str(text)) > 100:
        raise NotAnAmount(f"{param} is too long.", param=param)
    try:
        # By way of its text, so that a float means the digits that were sent.
        number = Decimal(str(text))
    except InvalidOperation:
        raise NotAnAmount(
            f'{param} must be a decimal number of tokens, such as "12.5".', param=param
        ) from None
    if not number.is_finite() or number < 0 or number.adjusted() > 60:
        raise NotAnAmount(
            f"{param} must be a number that is not negative and not astronomically large.", param=param
        )
    return _base_units(number, param)


def _base_units(number: Decimal, param: str) -> int:
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    shift = exponent + DECIMALS
    whole = int("".join(map(str, digits)))
    if shift >= 0:
        amount = whole * 10**shift
    else:
        amount, rest = divmod(whole, 10**-shift)
        if rest:
            raise NotAnAmount(f"{param} has more than {DECIMALS} decimal places.", param=param)
    if amount > MOST:
        raise NotAnAmount(f"{param} is larger than any amount can be.", param=param)
    return amount


def render(amount: int) -> str:
    """Base units as a decimal string of tokens, without needless zeros: 12500000000000000000 is "12.5"."""
    whole, rest = divmod(abs(amount), TOKEN)
    text = f"{whole}.{rest:018d}".rstrip("0").rstrip(".") if rest else str(whole)
    return f"-{text}" if amount < 0 else text


def named(amount: int) -> str:
    """An amount with its currency, for sentences: "12.5 OMNIT"."""
    return f"{render(amount)} {settings.CURRENCY}"


def per_million(tokens: int, price: int) -> int:
    """What tokens cost at a price per million, rounded up to a base unit."""
    return -(-tokens * price // MILLION)


def share(amount: int, basis_points: int) -> int:
    """A share in basis points, rounded down to a base unit."""
    return amount * basis_points // BASIS_POINTS


def for_seconds(price_per_hour: int, seconds: float) -> int:
    """What so many seconds cost at a price per hour, rounded up to a whole second and a base unit."""
    return -(-price_per_hour * math.ceil(seconds) // 3600)


class MoneyField(models.Field):
    """NUMERIC(78,0): base units, an int in Python."""

    _pyi_private_set_type: int | models.expressions.Combinable
    _pyi_private_get_type: int

    description = "Amount in base units"

    def db_type(self, connection: Any) -> str:
        return "numeric(78,0)"

    def get_internal_type(self) -> str:
        return "MoneyField"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> int | None:
        return None if value is None else int(value)

    def to_python(self, value: Any) -> int | None:
        return None if value is None else int(value)

    def get_prep_value(self, value: Any) -> Any:
        value = super().get_prep_value(value)
        return None if value is None else Decimal(int(value))

    def formfield(self, **options: Any) -> Any:
        return super().formfield(**{"form_class": AmountFormField, **options})


class AmountFormField(forms.CharField):
    """A decimal string of tokens in a form; base units inside."""

    def prepare_value(self, value: Any) -> Any:
        return render(value) if isinstance(value, int) else value

    def to_python(self, value: Any) -> Any:
        if value in self.empty_values:
            return None
        try:
            return parse(value, param="This")
        except NotAnAmount as error:
            raise forms.ValidationError(error.message) from None


class AmountField(serializers.Field[int, Any, str, Any]):
    """A decimal string of tokens in an API; base units inside."""

    default_error_messages = {"zero": "This must be more than 0."}

    def __init__(self, *, allow_zero: bool = True, **options: Any) -> None:
        self.allow_zero = allow_zero
        super().__init__(**options)

    def to_internal_value(self, data: Any) -> int:
        try:
            amount = parse(data, param="This")
        except NotAnAmount as error:
            raise serializers.ValidationError(error.message) from None
        if not amount and not self.allow_zero:
            self.fail("zero")
        return amount

    def to_representation(self, value: int) -> str:
        return render(value)

    class Meta:
        swagger_schema_fields = {"type": "string", "format": "decimal", "example": "12.5"}
