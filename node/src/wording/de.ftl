voice-call = { $name } ruft an
video-call = { $name } ruft mit Video an
message =
    { $count ->
        [one] Nachricht von { $name }
       *[other] { $count } Nachrichten von { $name }
    }
missed-call =
    { $count ->
        [one] Verpasster Anruf von { $name }
       *[other] { $count } verpasste Anrufe von { $name }
    }
contact-request = { $name } möchte Kontakt mit dir aufnehmen
voicemail =
    { $count ->
        [one] Sprachnachricht von { $name }
       *[other] { $count } Sprachnachrichten von { $name }
    }
file =
    { $count ->
        [one] { $name } sendet dir eine Datei
       *[other] { $name } sendet dir { $count } Dateien
    }
mail = E-Mail von { $name }
self-test = Die Testbenachrichtigung ist angekommen
notice = Neues von { $name }
shown-on = { $event } (zu sehen auf { $device })
accept = Annehmen
decline = Ablehnen
