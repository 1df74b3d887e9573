voice-call = { $name } belt
video-call = { $name } belt met video
message =
    { $count ->
        [one] Bericht van { $name }
       *[other] { $count } berichten van { $name }
    }
missed-call =
    { $count ->
        [one] Gemiste oproep van { $name }
       *[other] { $count } gemiste oproepen van { $name }
    }
contact-request = { $name } wil je als contact toevoegen
voicemail =
    { $count ->
        [one] Voicemail van { $name }
       *[other] { $count } voicemails van { $name }
    }
file =
    { $count ->
        [one] { $name } stuurt je een bestand
       *[other] { $name } stuurt je { $count } bestanden
    }
mail = E-mail van { $name }
self-test = De testmelding is aangekomen
notice = Nieuws van { $name }
shown-on = { $event } (te zien op { $device })
accept = Opnemen
decline = Weigeren
