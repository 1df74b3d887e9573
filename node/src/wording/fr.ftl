voice-call = Appel de { $name }
video-call = Appel vidéo de { $name }
message =
    { $count ->
        [one] Message de { $name }
       *[other] { $count } messages de { $name }
    }
missed-call =
    { $count ->
        [one] Appel manqué de { $name }
       *[other] { $count } appels manqués de { $name }
    }
contact-request = { $name } souhaite vous ajouter à ses contacts
voicemail =
    { $count ->
        [one] Message vocal de { $name }
       *[other] { $count } messages vocaux de { $name }
    }
file =
    { $count ->
        [one] { $name } vous envoie un fichier
       *[other] { $name } vous envoie { $count } fichiers
    }
mail = E-mail de { $name }
self-test = La notification de test est arrivée
notice = Du nouveau de la part de { $name }
shown-on = { $event } (affiché sur { $device })
accept = Accepter
decline = Refuser
