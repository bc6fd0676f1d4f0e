"""Paths of the accounts."""

from django.urls import path

from clients.api import (
    accounts,
    files,
    keys,
    limits,
    passwords,
    payouts,
    profiles,
    provider,
    statements,
    tokens,
    transfers,
    wallets,
)
from marketplace.paths import with_either_end

urlpatterns = with_either_end(
    [
        path("client/register/", accounts.Register.as_view()),
        path("client/login/", accounts.Login.as_view()),
        path("client/logout/", accounts.Logout.as_view()),
        path("client/google-auth/", accounts.GoogleAuth.as_view()),
        path("client/password-reset/", passwords.PasswordReset.as_view()),
        path("client/reset-password/<str:uidb64>/<str:token>/", passwords.NewPassword.as_view()),
        path("client/list/", profiles.ProfileList.as_view()),
        path("client/list/<id:id>/", profiles.Profile.as_view()),
        path("client/provider/", provider.Provider.as_view()),
        path("client/api-keys/", keys.Keys.as_view()),
        path("client/api-keys/<id:id>/", keys.Key.as_view()),
        path("client/limits/", limits.Limits.as_view()),
        path("client/tokens/", tokens.Devices.as_view()),
        path("client/tokens/<id:id>/", tokens.Device.as_view()),
        path("client/wallets/", wallets.Wallets.as_view()),
        path("client/wallets/challenge/", wallets.Challenge.as_view()),
        path("client/wallets/<id:id>/", wallets.OneWallet.as_view()),
        path("auth/token", keys.AuthToken.as_view()),
        path("files/<str:token>", files.LinkedFile.as_view()),
        path("account/balance", transfers.Balance.as_view()),
        path("account/transfer", transfers.Transfer.as_view()),
        path("account/transactions", statements.Transactions.as_view()),
        path("account/payouts", payouts.Payouts.as_view()),
        path("account/payouts/<id:id>", payouts.OnePayout.as_view()),
    ]
)
