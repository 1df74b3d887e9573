voice-call = Chiamata da { $name }
video-call = Videochiamata da { $name }
message =
    { $count ->
        [one] Messaggio da { $name }
       *[other] { $count } messaggi da { $name }
    }
missed-call =
    { $count ->
        [one] Chiamata persa da { $name }
       *[other] { $count } chiamate perse da { $name }
    }
contact-request = { $name } vuole aggiungerti ai contatti
voicemail =
    { $count ->
        [one] Messaggio vocale da { $name }
       *[other] { $count } messaggi vocali da { $name }
    }
file =
    { $count ->
        [one] { $name } ti invia un file
       *[other] { $name } ti invia { $count } file
    }
mail = E-mail da { $name }
self-test = La notifica di prova è arrivata
notice = Novità da { $name }
shown-on = { $event } (visibile su { $device })
accept = Accetta
decline = Rifiuta
